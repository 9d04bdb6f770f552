"""Drivers that are killed, half of them inside a commit; then the same command, and a comparison."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.outcome import Outcome
from tests.chaos.places import SYSTEMS, Ended, Machine, Place, System, differences, left_behind

TRIES = 12
"""So often a kill is tried that comes too late."""


@dataclass
class Reference:
    """What commands leave that nothing disturbs: files, the machine's own copies (relative to its cache);
    the seconds after the imports, and how often it visits each kind of commit."""

    files: Mapping[str, bytes]
    seconds: float
    visits: Mapping[str, int]
    copies: Mapping[str, bytes]


def work(system: System, *commands: tuple[str, ...]) -> tuple[System, tuple[tuple[str, ...], ...]]:
    """What is to be run where nothing disturbs: ``commands`` one after the other (default: the system's own).
    Ray must give what the local runner gives."""
    if system.ray:
        system = SYSTEMS["local, training"]
        commands = (system.words,)
    return system, tuple(dict.fromkeys(commands or (system.words,)))


def undisturbed(machine: Machine, system: System, *commands: tuple[str, ...]) -> Reference:
    """What :func:`work` leaves, made once. RuntimeError with what a command wrote when it fails."""
    what = work(system, *commands)
    if what not in machine.known:
        machine.known[what] = _undisturbed(machine, *what)
    return machine.known[what]


def _undisturbed(machine: Machine, system: System, commands: tuple[tuple[str, ...], ...]) -> Reference:
    place, seconds = machine.place(system), 0.0
    count, cache = place.folder / "visits.json", place.folder / "cache"
    for words in commands:
        with place.start(words, {"count": str(count)}) as started:
            started.begun()
            begun = time.monotonic()
            ended = started.end()
            seconds += time.monotonic() - begun
        if ended.status:
            raise RuntimeError(f"The undisturbed run of {system.name} failed:\n{ended.text}\n{ended.error}")
    copies = {
        p.relative_to(cache).as_posix(): p.read_bytes()
        for p in sorted(cache.rglob("*"))
        if p.is_file() and p.suffix != ".lock"
    }
    result = Reference(place.files(), seconds, json.loads(count.read_text()), copies)
    place.clear()
    return result


def commit_kills(visits: Mapping[str, int], number: int, rng: random.Random) -> list[tuple[str, int]]:
    """``number`` visits at which to end, spread over the kinds of commits, then over their visits."""
    kinds = sorted(visits)
    rng.shuffle(kinds)
    return [(kind, rng.randint(1, visits[kind])) for kind in (kinds * number)[:number]]


def chain(
    machine: Machine, system: System, wanted: Reference, moments: list[tuple[str, int]], rng: random.Random
) -> list[Outcome]:
    """Kill the command once at each of ``moments`` on one root, (kind, visit) inside a commit or ('', 0) at a
    moment of chance, then let it end; every kill's outcome is that of the end."""
    begin, place, kinds = time.monotonic(), machine.place(system), []
    for kind, visit in moments:
        killed = (
            _kill_inside(place, system, kind, visit, rng)
            if kind
            else _kill_at_random(place, system, wanted, rng)
        )
        kinds.append(killed)
    ended = place.run(system.words, ray=False)
    how, note = judge(place, wanted, ended)
    if how == "equal":
        place.clear()
    place.end_all()
    seconds = (time.monotonic() - begin) / len(moments)
    return [Outcome("kill", system.name, kind, how, seconds, note) for kind in kinds]


def judge(place: Place, wanted: Reference, ended: Ended) -> tuple[str, str]:
    """(how, note) of a command that has gone on after something."""
    if ended.status:
        return (
            "failed",
            f"status {ended.status}: {(ended.error or ended.text).strip()[-400:]} ({place.folder})",
        )
    files = place.files()
    if other := differences(files, wanted.files):
        return "served", f"other content than an undisturbed run: {other[:6]} ({place.folder})"
    if left := left_behind(place, files):
        return "failed", f"left behind: {left[:6]} ({place.folder})"
    whole = place.verify()
    if whole.status:
        return "failed", f"cache verify: {(whole.text + whole.error).strip()[-400:]} ({place.folder})"
    return "equal", ""


def _kill_inside(place: Place, system: System, kind: str, visit: int, rng: random.Random) -> str:
    """Fewer and fewer visits until one is reached: a command that goes on has less to do. Returns what was
    hit."""
    for _ in range(TRIES):
        mark = place.folder / f"mark-{rng.getrandbits(32):08x}"
        spec = {"kind": kind, "visit": visit, "mark": str(mark)}
        ended = place.run(system.words, spec, ray=system.ray)
        if mark.exists():
            by_worker = "tests.chaos.driver" not in mark.read_text()
            assert ended.status == -signal.SIGKILL or (system.ray and by_worker), ended
            return f"inside a commit: {kind}{' (in a worker)' if by_worker else ''}"
        visit = max(1, visit // 2) if visit > 1 else 0
        if not visit:
            break
    return _kill_at_random(place, system, None, rng)


def _kill_at_random(place: Place, system: System, wanted: Reference | None, rng: random.Random) -> str:
    seconds = wanted.seconds if wanted else 1.0
    for _ in range(TRIES):
        with place.start(system.words) as started:
            if started.begun():
                time.sleep(rng.uniform(0.0, seconds))
                if started.process.poll() is None:
                    started.kill()
                    return "at a moment of chance"
        seconds /= 2  # it came too late: less is left to do
    raise RuntimeError(f"No kill of {system.name} came in time.")
