"""Two drivers at once on one root."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from tests.chaos.kills import undisturbed
from tests.chaos.outcome import Outcome
from tests.chaos.places import SWEEP, SYSTEMS, TOY, Machine, System, differences, left_behind

OTHER = (*TOY, "--answers.spread", "3.0")
"""A run of another recipe that shares numbers and total with the first."""
PAIRS: dict[str, tuple[System, tuple[str, ...]]] = {
    "the same run twice": (SYSTEMS["local"], TOY),
    "two runs that share a fit": (SYSTEMS["local"], OTHER),
    "a sweep beside a run": (SYSTEMS["local"], SWEEP),
    "the same sweep twice": (SYSTEMS["sweep"], SWEEP),
    "the same run twice, S3": (SYSTEMS["s3"], TOY),
    "two runs that share a fit, S3": (SYSTEMS["s3"], OTHER),
    "the same training twice": (SYSTEMS["local, training"], SYSTEMS["local, training"].words),
    "the same training twice, Ray": (SYSTEMS["ray, training"], SYSTEMS["ray, training"].words),
}


def alone(machine: Machine, pair: str) -> Mapping[str, bytes]:
    """What the two commands leave, one after the other."""
    system, other = PAIRS[pair]
    return undisturbed(machine, system, system.words, other).files


def twins(machine: Machine, pair: str, wanted: Mapping[str, bytes], rng: random.Random) -> Outcome:
    """Start both, the second up to a second later, and wait for both."""
    begin = time.monotonic()
    system, other = PAIRS[pair]
    place = machine.place(system)
    with place.start(system.words) as first:
        time.sleep(rng.choice((0.0, 0.0, rng.uniform(0, 1.0))))
        with place.start(other) as second:
            ends = [first.end(), second.end()]
    files, note = place.files(), ""
    how = "together"
    if any(e.status for e in ends):
        how, note = (
            "failed",
            "; ".join(f"status {e.status}: {e.error.strip()[-300:]}" for e in ends if e.status),
        )
    elif other_files := differences(files, wanted):
        how, note = "served", f"other content than one alone: {other_files[:6]}"
    elif left := left_behind(place, files):
        how, note = "failed", f"left behind: {left[:6]}"
    elif (whole := place.verify()).status:
        how, note = "failed", f"cache verify: {(whole.text + whole.error).strip()[-400:]}"
    place.end_all()
    if how == "together":
        place.clear()
    else:
        note += f" ({place.folder})"
    return Outcome("twins", system.name, pair, how, time.monotonic() - begin, note)
