"""What became of a trial, the table over all of them, and whether anything is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

GOOD = {
    "equal": "the same command, run again, ended with the bytes of an undisturbed run",
    "repaired": "the same command made the damaged file again",
    "named": "the same command ended with status 2 and one sentence; after `cache verify --repair` it ended"
    " with the bytes of an undisturbed run",
    "unread": "the same command had no use for the damaged file and ended well; after `cache verify --repair`"
    " it ended with the bytes of an undisturbed run",
    "spare": "the file holds no result (signs of life, measured seconds, logs); the command passed over it",
    "together": "both ended with status 0 and the bytes of one alone; no unfinished file, no lease is left",
}
"""How a trial may end; anything else is a fault: 'served' (status 0 and other content), 'failed', 'not
run'."""


@dataclass(frozen=True)
class Outcome:
    """One trial: ``what`` was done ('kill', 'damage', 'twins') to ``where``, at which ``kind`` of place;
    ``how`` it ended; ``note`` says more of a fault."""

    what: str
    where: str
    kind: str
    how: str
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        return self.how in GOOD


def status(outcomes: Sequence[Outcome], wanted: int) -> int:
    """The exit status: 0 only if all ``wanted`` trials were made and all ended well."""
    return 0 if wanted and len(outcomes) == wanted and all(o.good for o in outcomes) else 1


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a row for each place and kind, then the faults one by one."""
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for o in outcomes:
        groups[o.what, o.where, o.kind].append(o)
    lines = [
        "| what | where | what was hit | trials | how they ended | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for (what, where, kind), members in sorted(groups.items()):
        ends = ", ".join(f"{n} {how}" for how, n in sorted(Counter(o.how for o in members).items()))
        seconds = sum(o.seconds for o in members)
        lines.append(f"| {what} | {where} | {kind} | {len(members)} | {ends} | {seconds:.0f} |")
    for what in sorted({o.what for o in outcomes}):
        members = [o for o in outcomes if o.what == what]
        ends = ", ".join(f"{n} {how}" for how, n in sorted(Counter(o.how for o in members).items()))
        seconds = sum(o.seconds for o in members)
        lines.append(f"| **{what}** | all | | **{len(members)}** | {ends} | {seconds:.0f} |")
    faults = [f"- {o.what}, {o.where}, {o.kind}: **{o.how}** {o.note}" for o in outcomes if not o.good]
    return "\n".join([*lines, *(["", "Faults:", "", *faults] if faults else [])])
