"""How long what is missing will take: from what the same or similar work took before on that device
(core/ledger.py), scaled by the FLOPs of the networks' passes (core/flops.py), else from these FLOPs and a
table of devices (core/devices.py)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffadapt.core.devices import device as device_of
from diffadapt.core.flops import Count, Counts, Mode, Need, Network, need, weighed
from diffadapt.core.ledger import Measured, samples
from diffadapt.core.stage import NodePlan

Basis = Literal["family", "label", "kind", "counted", "none"]
RECENT = 500
"""Entries that a rate is taken from at most, the newest."""


@dataclass(frozen=True)
class StageEstimate:
    """What one node lacks: ``shards`` (or fits) and their ``items``, and the device seconds that they will
    take.

    ``basis``: work of the same family; of the same kind and label; of the same kind; counted FLOPs over a
    rate of the table of devices; or none, and then ``seconds`` is None. ``entries``: how many were
    measured, on ``device``. ``longest``: seconds of the longest one. ``wave``: how many unfinished fits must
    come before it, one after the other; ``after``: the nodes that it reads. ``need``: what an item costs,
    where it can be counted; ``passes``: how often it is paid (items, or samples that the fits see).
    """

    name: str
    kind: str
    fit: bool
    shards: int
    items: int
    seconds: float | None = None
    longest: float = 0.0
    basis: Basis = "none"
    entries: int = 0
    device: str = ""
    label: str = ""
    wave: int = 0
    after: tuple[str, ...] = ()
    need: Need | None = None
    passes: int = 0

    @property
    def flops(self) -> float | None:
        """Of all that is missing; None where it cannot be counted."""
        return None if self.need is None else self.need.total * self.passes

    def source(self) -> str:
        """'measured (12 shards)', 'from one shard', 'similar (...)', 'counted' or 'not measured'."""
        what = "fit" if self.fit else "shard"
        if self.basis == "none":
            return "not measured"
        if self.basis == "counted":
            return "counted"
        if self.basis == "family":
            return f"from one {what}" if self.entries == 1 else f"measured ({self.entries} {what}s)"
        many = f"{self.entries} {what}{'s' * (self.entries != 1)}"
        return f"similar ({many} of {self.kind}/{self.label})"


@dataclass(frozen=True)
class Estimate:
    """Every node that lacks something, in the order of the work."""

    stages: tuple[StageEstimate, ...]

    @property
    def complete(self) -> bool:
        return all(s.seconds is not None for s in self.stages)

    @property
    def unmeasured(self) -> list[StageEstimate]:
        return [s for s in self.stages if s.seconds is None]

    @property
    def seconds(self) -> float:
        """Device seconds of all that is measured."""
        return sum(s.seconds or 0.0 for s in self.stages)

    @property
    def counted(self) -> float:
        """Device seconds of what was counted, not measured."""
        return sum(s.seconds or 0.0 for s in self.stages if s.basis == "counted")

    def by_device(self) -> dict[str, float]:
        """Device seconds by the device that they were measured on."""
        total: dict[str, float] = defaultdict(float)
        for s in self.stages:
            if s.seconds is not None:
                total[s.device] += s.seconds
        return dict(total)

    def wall(self, devices: int, *, train_workers: int = 1, speed: float = 1.0) -> float:
        """Seconds on ``devices`` equal devices, each ``speed`` times as fast as those measured: shards spread
        over them, every fit takes ``train_workers`` of them, and what needs a fit waits for it. Starting
        machines is not counted.

        For each wave Graham's bound of list scheduling: total / devices + (1 - 1 / devices) * longest chain.
        """
        devices, total = max(1, devices), 0.0
        team = min(max(1, train_workers), devices)
        for wave in sorted({s.wave for s in self.stages}):
            shards = [s for s in self.stages if s.wave == wave and not s.fit]
            fits = [s for s in self.stages if s.wave == wave and s.fit]
            total += _spread(shards, devices) + _spread(fits, devices // team) / team
        return total / speed


class NothingCounted:
    """Counts of no network."""

    def of(self, network: Network, mode: Mode) -> Count | None:
        return None

    def known(self, key: str) -> Count | None:
        return None


def estimate(
    plans: Mapping[str, NodePlan],
    done: Collection[str],
    measured: Iterable[Measured],
    device: str = "",
    counts: Counts | None = None,
    threads: int = 1,
) -> Estimate:
    """What ``plans`` lack beyond the digests ``done``, with times from ``measured``. What two nodes ask for
    counts once.

    The same family counts first, else the same kind and label, else the same kind; entries of a device that
    is called ``device`` (or as :func:`same_device` says) first, else those of the device that was used last.
    Shards scale by their items, fits by the images that they see, and both by the FLOPs of one where
    ``counts`` knows those of both sides. What was measured on no ``device``, or of that kind alone and not to
    be scaled, is counted where the table has the device; a device without GPUs has ``threads`` virtual CPUs.
    """
    counts = counts or NothingCounted()
    rates, counted, result = _Rates(measured, device), set(done), []
    table = device_of(device) if device else None
    owner = {p.digest: name for name, plan in plans.items() for p in plan.shards}
    behind: dict[str, int] = {}
    for name, plan in plans.items():
        parents = {owner[i.digest] for p in plan.shards for i in p.shard.inputs}
        open_fits = {
            o
            for o in parents
            if plans[o].stage.fit_stage and any(p.digest not in done for p in plans[o].shards)
        }
        behind[name] = max((behind[o] + (o in open_fits) for o in parents), default=0)
        left = [p for p in plan.shards if p.digest not in counted] if plan.stage.stored else []
        counted.update(p.digest for p in left)
        if not left:
            continue
        sizes = [p.shard.items for p in left]
        passes = [samples(plan.stage, n) for n in sizes]
        basis, entries = rates.of(plan)
        costs = need(plan.calls, counts)
        amounts = passes if all(passes) else sizes
        flops = _spent(entries, counts)
        seconds = _scaled(sizes, passes, entries)
        if costs and costs.total and flops and basis != "family":
            rate = flops / sum(m.device_seconds for m in entries)
            seconds = [costs.total * n / rate for n in amounts]
        other = not entries or not same_device(entries[0].device, device)
        if costs and costs.total and table and (other or (basis == "kind" and not flops)):
            lanes = threads if table.name == "cpu" else 1
            each = sum(f / (table.rate(p) * lanes) for p, f in costs.flops.items())
            basis, entries, seconds = "counted", [], [each * n for n in amounts]
        result.append(
            StageEstimate(
                name,
                plan.stage.kind,
                plan.stage.fit_stage,
                len(left),
                sum(sizes),
                None if basis == "none" else sum(seconds),
                max(seconds, default=0.0),
                basis,
                len(entries),
                entries[0].device if entries else device if basis == "counted" else "",
                entries[0].label if entries else plan.stage.label(),
                behind[name],
                tuple(sorted(parents)),
                costs,
                sum(amounts),
            )
        )
    return Estimate(tuple(result))


def same_device(measured: str, wanted: str) -> bool:
    """Whether a device's own name ('NVIDIA A100-SXM4-40GB') is what is ``wanted`` (all its words occur: 'A100
    40GB')."""
    words = set(re.split(r"[^a-z0-9]+", measured.lower()))
    return bool(wanted) and set(wanted.lower().split()) <= words


class _Rates:
    """Entries by family, by kind and label, and by kind; those of one device."""

    def __init__(self, measured: Iterable[Measured], device: str):
        self.device = device
        self.groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
        for m in measured:
            if not m.resumed:
                for key in (("family", m.kind, m.family), ("label", m.kind, m.label), ("kind", m.kind)):
                    self.groups[key].append(m)
        self.chosen: dict[tuple[str, ...], list[Measured]] = {}

    def of(self, plan: NodePlan) -> tuple[Basis, list[Measured]]:
        kind, label = plan.stage.kind, plan.stage.label()
        keys: tuple[tuple[Basis, tuple[str, ...]], ...] = (
            ("family", ("family", kind, plan.family)),
            ("label", ("label", kind, label)),
            ("kind", ("kind", kind)),
        )
        for basis, key in keys:
            if key in self.groups:
                return basis, self._of_one_device(key)
        return "none", []

    def _of_one_device(self, key: tuple[str, ...]) -> list[Measured]:
        """Of a kind with several labels: those of the label used last, for they are about one thing."""
        if key not in self.chosen:
            entries = self.groups[key]
            wanted = [m for m in entries if same_device(m.device, self.device)] or entries
            last = max(wanted, key=lambda m: m.when)
            same = [
                m for m in wanted if m.device == last.device and (key[0] != "kind" or m.label == last.label)
            ]
            self.chosen[key] = sorted(same, key=lambda m: m.when)[-RECENT:]
        return self.chosen[key]


def _scaled(sizes: Sequence[int], passes: Sequence[int], entries: Sequence[Measured]) -> list[float]:
    """Device seconds of each missing piece from ``entries``: by images seen, else by items, else alike."""
    if not entries:
        return []
    spent = sum(m.device_seconds for m in entries)
    for amounts, known in ((passes, [m.samples for m in entries]), (sizes, [m.items for m in entries])):
        if all(amounts) and all(known):
            return [spent / sum(known) * a for a in amounts]
    return [spent / len(entries)] * len(sizes)


def _spent(entries: Sequence[Measured], counts: Counts) -> float:
    """FLOPs that ``entries`` took; 0 where one of them cannot be counted."""
    each = [(m.samples or m.items) * weighed(m.calls, counts) for m in entries]
    return sum(each) if all(each) else 0.0


def _spread(stages: Sequence[StageEstimate], lanes: int) -> float:
    """Seconds until all pieces are done when ``lanes`` of them go side by side."""
    chain: dict[str, float] = {}
    for s in stages:
        before = 0.0 if s.fit else max((chain[a] for a in s.after if a in chain), default=0.0)
        chain[s.name] = before + s.longest
    lanes = max(1, lanes)
    return sum(s.seconds or 0.0 for s in stages) / lanes + (1 - 1 / lanes) * max(chain.values(), default=0.0)
