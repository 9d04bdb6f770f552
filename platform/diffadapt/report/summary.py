"""A run's scores as one row a method: means, standard errors, differences that compare like with like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffadapt.core.record import Score
from diffadapt.data.config import CORRUPTIONS

CLEAN = "clean"
PERCENT_OF_IMAGES = ("top1",)
"""Metrics that are a share of images, so that a binomial standard error exists."""


@dataclass(frozen=True)
class Cell:
    """One method in one group. ``value`` in the metric's unit (percent for top1), ``images`` counted of ``of_images``."""

    value: float
    images: int
    of_images: int

    @property
    def variance(self) -> float:
        """Binomial variance of ``value`` in squared percentage points."""
        p = min(max(self.value / 100, 0.0), 1.0)
        return 1e4 * p * (1 - p) / max(self.images, 1)


@dataclass(frozen=True)
class MethodSummary:
    """One row: every group counts once in ``mean``; ``of_images`` is what the target has over all groups of the table."""

    method: str
    control: bool
    note: str
    selection: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    clean: Cell | None
    mean: float | None
    standard_error: float | None
    images: int
    of_images: int
    of_groups: int

    @property
    def whole(self) -> bool:
        """Whether the row counts every image of every group."""
        return self.images >= self.of_images and len(self.cells) == self.of_groups

    @property
    def title(self) -> str:
        """The method's name, stamped when target labels chose it."""
        return f"{self.method} [oracle]" if self.selection == "oracle" else self.method

    @property
    def coverage(self) -> str:
        """'8400', or '280 of 8400' when images are left out."""
        return str(self.images) if self.images >= self.of_images else f"{self.images} of {self.of_images}"


@dataclass(frozen=True)
class Difference:
    """``left`` minus ``right`` over the groups that both have, in points of the metric."""

    value: float
    left: float
    right: float
    standard_error: float | None
    """Of the difference, with the two rows taken as independent; None where no binomial error exists."""
    higher: int
    groups: int
    same_images: bool

    @property
    def separated(self) -> bool:
        """Whether the difference is larger than two standard errors (always False without one)."""
        return self.standard_error is not None and abs(self.value) > 2 * self.standard_error


@dataclass(frozen=True)
class Summary:
    """All rows of one metric in the run's order, and the groups (``corruption/severity``) in the benchmark's order."""

    metric: str
    groups: tuple[str, ...]
    rows: tuple[MethodSummary, ...]

    @property
    def main(self) -> tuple[MethodSummary, ...]:
        return tuple(r for r in self.rows if not r.control)

    @property
    def controls(self) -> tuple[MethodSummary, ...]:
        return tuple(r for r in self.rows if r.control)

    @property
    def has_clean(self) -> bool:
        return any(r.clean for r in self.rows)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({s for r in self.rows for s in r.seeds}))

    def role(self, name: str) -> MethodSummary | None:
        """The main row called ``name`` (any case), else the first whose first word it is, e.g. 'DDA (ensemble)'."""
        exact = [r for r in self.main if r.method.lower() == name]
        return next(iter(exact + [r for r in self.main if first_word(r.method) == name]), None)

    @property
    def group_noun(self) -> str:
        return "corruptions" if all(_known(g.split("/")[0]) in CORRUPTIONS for g in self.groups) else "groups"


def metrics(scores: Sequence[Score]) -> list[str]:
    """The metrics in ``scores``, top1 first, else in order of appearance."""
    found = list(dict.fromkeys(s.metric for s in scores))
    return sorted(found, key=lambda m: m != "top1")


def summarise(scores: Sequence[Score], metric: str | None = None) -> Summary:
    """Rows in the run's order for ``metric`` (default: top1, else the first one in ``scores``).

    Clean images stand in their own column, unless the target has nothing else. Several seeds are averaged in a cell.
    """
    metric = metric or next(iter(metrics(scores)), "top1")
    mine = [s for s in scores if s.metric == metric]
    shifted = {s.group for s in mine if s.corruption != CLEAN}
    groups = tuple(sorted(shifted or {s.group for s in mine}, key=_benchmark_order))
    of_images = {g: max(s.of_images for s in mine if s.group == g) for g in groups}
    by_method: dict[str, list[Score]] = {}
    for score in mine:
        by_method.setdefault(score.method, []).append(score)
    rows = tuple(_row(m, s, groups, of_images, bool(shifted), metric) for m, s in by_method.items())
    return Summary(metric, groups, rows)


def difference(left: MethodSummary, right: MethodSummary, metric: str = "top1") -> Difference | None:
    """``left`` minus ``right`` over their common groups; None when there are none."""
    common = [g for g in left.cells if g in right.cells]
    if not common:
        return None
    a, b = [left.cells[g] for g in common], [right.cells[g] for g in common]
    mean_a, mean_b = _mean(c.value for c in a), _mean(c.value for c in b)
    error = math.sqrt(sum(c.variance for c in (*a, *b))) / len(common) if metric in PERCENT_OF_IMAGES else None
    higher = sum(x.value > y.value for x, y in zip(a, b, strict=True))
    same = all(x.images == y.images for x, y in zip(a, b, strict=True))
    return Difference(mean_a - mean_b, mean_a, mean_b, error, higher, len(common), same)


def first_word(text: str) -> str:
    return next(iter(re.findall(r"[a-z0-9]+", text.lower())), "")


def group_label(group: str, groups: Sequence[str]) -> str:
    """'gaussian noise', with the severity when the table has several."""
    corruption, _, severity = group.partition("/")
    several = len({g.partition("/")[2] for g in groups}) > 1
    return corruption.replace("_", " ").replace("(", " (") + (f" {severity}" if several and severity else "")


def _row(method: str, scores: list[Score], groups: Sequence[str], of_images: Mapping[str, int], split_clean: bool, metric: str) -> MethodSummary:
    cells = {g: cell for g in groups if (cell := _cell([s for s in scores if s.group == g]))}
    clean = _cell([s for s in scores if s.corruption == CLEAN]) if split_clean else None
    error = math.sqrt(sum(c.variance for c in cells.values())) / len(cells) if cells and metric in PERCENT_OF_IMAGES else None
    first = scores[0]
    return MethodSummary(
        method=method,
        control=first.control,
        note=first.note,
        selection=first.selection,
        seeds=tuple(sorted({s.seed for s in scores})),
        cells=cells,
        clean=clean,
        mean=_mean(c.value for c in cells.values()) if cells else None,
        standard_error=error,
        images=sum(c.images for c in cells.values()),
        of_images=sum(of_images.values()),
        of_groups=len(groups),
    )


def _cell(scores: list[Score]) -> Cell | None:
    if not scores:
        return None
    return Cell(_mean(s.value for s in scores), max(s.images for s in scores), max(s.of_images for s in scores))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _benchmark_order(group: str) -> tuple:
    corruption, _, severity = group.partition("/")
    name = _known(corruption)
    known = CORRUPTIONS.index(name) if name in CORRUPTIONS else len(CORRUPTIONS)
    return known, corruption, int(severity) if severity.isdigit() else 0, severity


def _known(corruption: str) -> str:
    """The benchmark's name of a variant: 'frost' of 'frost(procedural)'."""
    return corruption.partition("(")[0]
