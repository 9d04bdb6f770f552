"""``python -m tests.chaos [--kills N] [--damages N] [--twins N] [--seed N] [--minutes M] [--jobs N] [--only
WHERE ...]``: prints each trial, then the table; the exit status is 0 only if everything was tried and ended
well."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from tests.chaos import damages, kills, outcome, twins
from tests.chaos.outcome import Outcome
from tests.chaos.places import SYSTEMS, Machine, s3_server

SHARES = {
    "local": 34, "sweep": 20, "s3": 18, "s3 sweep": 4, "local, training": 8, "ray, training": 8,
    "local processes, training": 8,
}  # fmt: skip
"""Of a hundred kills, where they happen."""
CHAINS = {"local, training": 4, "ray, training": 4, "local processes, training": 4}
"""Kills of one root one after the other, where a start takes long."""
PAIRS = (
    ("the same run twice", 5), ("two runs that share a fit", 4), ("a sweep beside a run", 3),
    ("the same sweep twice", 2), ("the same run twice, S3", 2), ("two runs that share a fit, S3", 2),
    ("the same training twice", 1), ("the same training twice, Ray", 1),
)  # fmt: skip
"""Of twenty starts, what is started."""
WHOLE = {"local", "local, training"}
"""Where files of a run that was killed in the middle are damaged too."""
Trial = tuple[int, Callable[[], list[Outcome]], str]
"""How many outcomes it gives, the work, and what it is called where it cannot be done."""


def shared(number: int, shares: dict[str, int]) -> dict[str, int]:
    """``number`` in proportion to ``shares``; the sum is exact."""
    whole, result, before = sum(shares.values()), {}, 0
    seen = 0
    for name, share in shares.items():
        seen += share
        upto = round(number * seen / whole) if whole else 0
        result[name] = upto - before
        before = upto
    return result


def kill_trials(machine: Machine, counts: dict[str, int], seed: int) -> list[Trial]:
    result: list[Trial] = []
    for name, count in counts.items():
        if not count:
            continue
        system, rng = SYSTEMS[name], random.Random(f"{seed} {name}")
        known = kills.undisturbed(machine, system)
        inside = kills.commit_kills(known.visits, (count + 1) // 2, rng)
        moments = [*inside, *[("", 0)] * (count - len(inside))]
        rng.shuffle(moments)
        size = CHAINS.get(name, 1)
        for i in range(0, count, size):
            part, own = moments[i : i + size], random.Random(f"{seed} {name} {i}")
            result.append(
                (
                    len(part),
                    lambda s=system, k=known, p=part, r=own: kills.chain(machine, s, k, p, r),
                    f"kill, {name}",
                )
            )
    return result


def damage_trials(machine: Machine, grounds: Sequence[damages.Ground], number: int, seed: int) -> list[Trial]:
    """Every kind of file of every ground in turn, the ways of damage in turn."""
    rng = random.Random(f"{seed} damage")
    known: dict[str, list[damages.Ground]] = {}
    for ground in grounds:
        for kind in ground.kinds():
            known.setdefault(kind, []).append(ground)
    result: list[Trial] = []
    kinds = sorted(known)
    rng.shuffle(kinds)
    for i in range(number if kinds else 0):
        kind, how = kinds[i % len(kinds)], damages.HOWS[(i + i // len(kinds)) % len(damages.HOWS)]
        own, force = random.Random(f"{seed} damage {i}"), i % 2 == 0
        ground = own.choice(known[kind])
        result.append(
            (1, lambda g=ground, k=kind, h=how, f=force, r=own: [damages.trial(machine, g, k, h, f, r)],
             f"damage, {ground.name}, {kind}")
        )  # fmt: skip
    return result


def twin_trials(machine: Machine, counts: dict[str, int], seed: int) -> list[Trial]:
    result: list[Trial] = []
    for pair, count in counts.items():
        if not count:
            continue
        wanted = twins.alone(machine, pair)
        for i in range(count):
            own = random.Random(f"{seed} {pair} {i}")
            result.append(
                (1, lambda p=pair, w=wanted, r=own: [twins.twins(machine, p, w, r)], f"twins, {pair}")
            )
    return result


def carry_out(
    trials: Sequence[Trial], jobs: int, deadline: float, say: Callable[[str], None]
) -> list[Outcome]:
    """All outcomes; what does not begin before ``deadline`` (of time.monotonic) is 'not run'."""
    lock, done, whole = threading.Lock(), [], sum(count for count, _, _ in trials)

    def one(trial: Trial) -> None:
        count, work, name = trial
        what, _, where = name.partition(", ")
        if time.monotonic() > deadline:
            ended = [Outcome(what, where, "", "not run")] * count
        else:
            try:
                ended = work()
            except Exception as error:  # a fault of the tests' own is no success
                ended = [Outcome(what, where, "", "failed", note=f"{type(error).__name__}: {error}")] * count
        with lock:
            done.extend(ended)
            for o in ended:
                place = f"{o.what}, {o.where}, {o.kind}"
                say(f"{len(done)}/{whole}  {place}: {o.how}  {o.seconds:.1f} s  {o.note}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, trials))
    return done


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for name, count in (("kills", 100), ("damages", 50), ("twins", 20), ("seed", 0), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--minutes", type=float, default=20.0, help="what does not begin before is not run")
    parser.add_argument("--only", nargs="*", default=list(SHARES), choices=list(SHARES), help="kinds of runs")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the S3 ends with this process
    only = set(options.only)
    kill_counts = shared(options.kills, {n: s for n, s in SHARES.items() if n in only})
    pairs = {p: n for p, n in PAIRS if twins.PAIRS[p][0].name in only}
    twin_counts = shared(options.twins, pairs)

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {line}", flush=True)

    base = Path(tempfile.mkdtemp(prefix="chaos-"))
    with s3_server(base) if any("s3" in n for n in only) else nullcontext({}) as s3:
        machine = Machine(base, s3)
        first = {kills.work(SYSTEMS[n]) for n, count in kill_counts.items() if count}
        if options.damages:
            first |= {kills.work(*what) for what in damages.commands(machine, only).values()}
            first |= {kills.work(SYSTEMS[n]) for n in WHOLE & only}
        chosen = [twins.PAIRS[p] for p, count in twin_counts.items() if count]
        first |= {kills.work(system, system.words, other) for system, other in chosen}
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda what: kills.undisturbed(machine, what[0], *what[1]), sorted(first, key=str)))
        for (system, _), known in machine.known.items():
            say(f"undisturbed, {system.name}: {known.seconds:.1f} s, commits {dict(known.visits)}")
        trials = kill_trials(machine, kill_counts, options.seed)
        if options.damages:
            grounds = damages.grounds(machine, only)
            trials += damage_trials(machine, grounds, options.damages, options.seed)
        trials += twin_trials(machine, twin_counts, options.seed)
        random.Random(options.seed).shuffle(trials)
        outcomes = carry_out(trials, options.jobs, begin + 60 * options.minutes, say)
    print("\n" + outcome.table(outcomes))
    wanted = options.kills + options.damages + options.twins
    code = outcome.status(outcomes, wanted)
    minutes, verdict = (time.monotonic() - begin) / 60, "NOT all well" if code else "all well"
    print(f"\n{len(outcomes)} trials in {minutes:.1f} minutes: {verdict}")
    if not code:
        shutil.rmtree(base, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
