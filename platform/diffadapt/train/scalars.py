"""Scalars of steps that a device has not finished yet: fetched together, reported step by step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffadapt.train.reporter import Reporter

FETCH_EVERY = 20
"""Steps after which a CUDA device is asked for its numbers: each time it has to finish all that waits."""


def fetch_every(wanted: int | None, device: torch.device, *, each: bool) -> int:
    """How often numbers are fetched; ``each``: the next step depends on them. A CPU has them at once."""
    if each or (wanted is None and device.type != "cuda"):
        return 1
    return wanted or FETCH_EVERY


class LateScalars:
    """Steps whose numbers are still on the device. ``check(name, value, step)`` raises for a number that is
    not finite; ``report(finished, scalars)`` is told every step in order."""

    def __init__(
        self,
        reporter: Reporter,
        check: Callable[[str, float, int], None],
        report: Callable[[int, dict[str, float]], None],
    ):
        self.reporter, self.check, self.report = reporter, check, report
        self.waiting: list[tuple[int, dict[str, float], dict[str, torch.Tensor]]] = []
        self.since = time.perf_counter()

    def add(self, finished: int, scalars: dict[str, float], late: dict[str, torch.Tensor]) -> None:
        """Remember a step: ``scalars`` gets what ``late`` holds when it is there."""
        if not self.waiting:
            self.since = time.perf_counter() - scalars.get("step_seconds", 0.0)
        self.waiting.append((finished, scalars, late))

    def fetch(self) -> None:
        """Wait for all numbers (the mean over ranks of each), fill them in, check and report them."""
        if not self.waiting:
            return
        known = [f"{i} {name}" for i, (_, _, late) in enumerate(self.waiting) for name in late]
        values = [
            value.detach().double().reshape(()) for _, _, late in self.waiting for value in late.values()
        ]
        found: dict[str, float] = {}
        if values:
            numbers = torch.stack(values).tolist()  # the one transfer of them all
            found = self.reporter.all_reduce_mean(dict(zip(known, numbers, strict=True)))
        took = (time.perf_counter() - self.since) / len(self.waiting)
        waiting, self.waiting = self.waiting, []
        for i, (finished, scalars, late) in enumerate(waiting):
            scalars.update({name: found[f"{i} {name}"] for name in late})
            if late:
                if "images_per_second" in scalars:
                    scalars["images_per_second"] *= scalars["step_seconds"] / max(took, 1e-9)
                scalars["step_seconds"] = took  # that of one step alone is how long asking took
            for name in late:
                self.check(name, scalars[name], finished - 1)
            self.report(finished, scalars)
