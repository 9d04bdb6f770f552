"""A run's scores as one row a method: means, standard errors, differences that compare like with like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from diffadapt.core.pipeline import RESULT, SOURCE, Role
from diffadapt.core.record import Score
from diffadapt.data.config import CORRUPTIONS
from diffadapt.metrics import metric as metric_of
from diffadapt.metrics.classification import TOP1
from diffadapt.report.old_runs import by_title

CLEAN = "clean"


@dataclass(frozen=True)
class Cell:
    """One method in one group. ``value`` in the metric's unit (percent for top1), ``images`` counted of
    ``of_images``.

    ``value`` is the mean of ``by_seed``.
    """

    value: float
    images: int
    of_images: int
    by_seed: Mapping[int, float]

    @property
    def variance(self) -> float:
        """Binomial variance of ``value`` in squared percentage points."""
        p = min(max(self.value / 100, 0.0), 1.0)
        return 1e4 * p * (1 - p) / max(self.images, 1)


@dataclass(frozen=True)
class MethodSummary:
    """One row: every group counts once in ``mean``; ``of_images`` is what the target has over all groups of
    the table.

    ``standard_error`` is binomial and stands for one seed; ``deviation`` is the standard deviation (n - 1)
    over the seeds of the mean over groups, for two seeds or more.
    """

    method: str
    control: bool
    note: str
    selection: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    clean: Cell | None
    mean: float | None
    standard_error: float | None
    deviation: float | None
    images: int
    of_images: int
    of_groups: int
    role: Role = Role()

    @property
    def whole(self) -> bool:
        """Whether the row counts every image of every group."""
        return self.images >= self.of_images and len(self.cells) == self.of_groups

    @property
    def spread(self) -> float | None:
        """The deviation over seeds, else the binomial standard error."""
        return self.standard_error if self.deviation is None else self.deviation

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
    """Over the seeds' differences where both rows have the same seeds, two or more; for one seed each the
    binomial error of rows taken as independent; None otherwise."""
    higher: int
    groups: int
    same_images: bool
    seeds: int = 1
    """How many seeds both rows have; 0 when they have different ones."""
    seeds_higher: int = 0
    """With how many of several seeds ``left`` is higher."""

    @property
    def separated(self) -> bool:
        """Whether the difference is larger than two standard errors (always False without one), and of one
        sign with every seed."""
        agree = self.seeds < 2 or self.seeds_higher == (self.seeds if self.value > 0 else 0)
        return self.standard_error is not None and abs(self.value) > 2 * self.standard_error and agree


@dataclass(frozen=True)
class Summary:
    """All rows of one metric in the run's order, and the groups (``corruption/severity``) in the benchmark's
    order."""

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
        """The seeds of the rows that have several, else of all rows."""
        several = [r for r in self.rows if len(r.seeds) > 1]
        return tuple(sorted({s for r in several or self.rows for s in r.seeds}))

    @property
    def reference(self) -> MethodSummary | None:
        """The row that differences are taken to: the first that was trained on the source alone."""
        return next((r for r in self.main if r.role.kind == SOURCE), None)

    @property
    def reference_word(self) -> str:
        """'Source', or the first word of what stands in its place."""
        return (self.reference.method.split() or ["Source"])[0] if self.reference else "Source"

    def named(self, method: str) -> MethodSummary | None:
        """The row called ``method``."""
        return next((r for r in self.rows if r.method == method), None)

    def partner(self, row: MethodSummary) -> MethodSummary | None:
        """The row that ``row`` is read beside, where it is stated and in the table."""
        return self.named(row.role.partner) if row.role.partner else None

    @property
    def lead(self) -> MethodSummary | None:
        """The system's own method, else the last main row that is not the reference."""
        own = [r for r in self.main if r.role.kind == RESULT]
        return next(iter([*own, *(r for r in reversed(self.main) if r is not self.reference)]), None)

    @property
    def group_noun(self) -> str:
        """What the groups are: corruptions of the benchmarks, transfers (source-target), or just groups."""
        names = [g.split("/")[0] for g in self.groups]
        if all(_known(n) in CORRUPTIONS for n in names):
            return "corruptions"
        return "transfers" if all(is_transfer(n) for n in names) else "groups"

    @property
    def unit(self) -> str:
        unit = metric_of(self.metric).unit
        return f" {unit}" if unit else ""

    @property
    def metric_name(self) -> str:
        """'top-1 accuracy (%)'."""
        known = metric_of(self.metric)
        return f"{known.title} ({known.unit})" if known.unit else self.metric


def metrics(scores: Sequence[Score]) -> list[str]:
    """The metrics in ``scores``, top1 first, those on the source last, else in order of appearance; those of
    single classes are left out."""
    result = [m for m in dict.fromkeys(s.metric for s in scores) if not metric_of(m).by_class]
    return sorted(result, key=lambda m: (m != TOP1.name, metric_of(m).place == "source"))


def summarise(scores: Sequence[Score], metric: str | None = None) -> Summary:
    """Rows in the run's order for ``metric`` (default: top1, else the first one in ``scores``).

    Clean images stand in their own column, unless the target has nothing else. Several seeds are averaged in
    a cell.
    """
    metric = metric or next(iter(metrics(scores)), TOP1.name)
    mine = [s for s in scores if s.metric == metric]
    shifted = {s.group for s in mine if s.corruption != CLEAN}
    groups = tuple(sorted(shifted or {s.group for s in mine}, key=_benchmark_order))
    of_images = {g: max(s.of_images for s in mine if s.group == g) for g in groups}
    by_method: dict[str, list[Score]] = {}
    for score in mine:
        by_method.setdefault(score.method, []).append(score)
    rows = tuple(_row(m, s, groups, of_images, bool(shifted), metric) for m, s in by_method.items())
    if not all(r.role.kind for r in rows):
        known = by_title(rows)
        rows = tuple(r if r.role.kind else replace(r, role=known.get(r.method, r.role)) for r in rows)
    return Summary(metric, groups, rows)


def difference(left: MethodSummary, right: MethodSummary, metric: str = TOP1.name) -> Difference | None:
    """``left`` minus ``right`` over their common groups; None when there are none."""
    common = [g for g in left.cells if g in right.cells]
    if not common:
        return None
    a, b = [left.cells[g] for g in common], [right.cells[g] for g in common]
    mean_a, mean_b = _mean(c.value for c in a), _mean(c.value for c in b)
    higher = sum(x.value > y.value for x, y in zip(a, b, strict=True))
    same = all(x.images == y.images for x, y in zip(a, b, strict=True))
    seeds = set(a[0].by_seed)
    if any(set(c.by_seed) != seeds for c in (*a, *b)):
        one_each = len(left.seeds) == len(right.seeds) == 1
        return Difference(
            mean_a - mean_b,
            mean_a,
            mean_b,
            _binomial((*a, *b), metric, len(common)) if one_each else None,
            higher,
            len(common),
            same,
            0,
        )
    if len(seeds) == 1:
        return Difference(
            mean_a - mean_b,
            mean_a,
            mean_b,
            _binomial((*a, *b), metric, len(common)),
            higher,
            len(common),
            same,
        )
    steps = [_mean(x.by_seed[s] - y.by_seed[s] for x, y in zip(a, b, strict=True)) for s in sorted(seeds)]
    error = (_deviation(steps) or 0.0) / math.sqrt(len(steps))
    return Difference(
        mean_a - mean_b,
        mean_a,
        mean_b,
        error,
        higher,
        len(common),
        same,
        len(steps),
        sum(s > 0 for s in steps),
    )


def is_transfer(name: str) -> bool:
    """Whether ``name`` is source-target, such as amazon-webcam."""
    source, dash, target = name.partition("-")
    return bool(dash and source.strip() and target.strip())


def group_label(group: str, groups: Sequence[str]) -> str:
    """'gaussian noise', with the severity when the table has several."""
    corruption, _, severity = group.partition("/")
    several = len({g.partition("/")[2] for g in groups}) > 1
    return corruption.replace("_", " ").replace("(", " (") + (f" {severity}" if several and severity else "")


def _row(
    method: str,
    scores: list[Score],
    groups: Sequence[str],
    of_images: Mapping[str, int],
    split_clean: bool,
    metric: str,
) -> MethodSummary:
    cells = {g: cell for g in groups if (cell := _cell([s for s in scores if s.group == g]))}
    clean = _cell([s for s in scores if s.corruption == CLEAN]) if split_clean else None
    several = (
        [
            _mean(c.by_seed[seed] for c in cells.values())
            for seed in sorted(set.intersection(*(set(c.by_seed) for c in cells.values())))
        ]
        if cells
        else []
    )
    deviation = _deviation(several)
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
        standard_error=_binomial(tuple(cells.values()), metric) if cells and deviation is None else None,
        deviation=deviation,
        images=sum(c.images for c in cells.values()),
        of_images=sum(of_images.values()),
        of_groups=len(groups),
        role=first.role,
    )


def _cell(scores: list[Score]) -> Cell | None:
    if not scores:
        return None
    by_seed = {
        seed: _mean(s.value for s in scores if s.seed == seed) for seed in sorted({s.seed for s in scores})
    }
    return Cell(
        _mean(by_seed.values()), max(s.images for s in scores), max(s.of_images for s in scores), by_seed
    )


def _binomial(cells: Sequence[Cell], metric: str, groups: int = 0) -> float | None:
    """The standard error of the mean over ``groups`` groups (default: one a cell); None for a metric that is
    no share of images."""
    return (
        math.sqrt(sum(c.variance for c in cells)) / (groups or len(cells))
        if metric_of(metric).share
        else None
    )


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    middle = _mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))


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
