"""What the tables and charts of a sweep are drawn from: its axes, settings and trials, ordered, named and
free of credentials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffadapt.report.mask import masked
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.recommend import Setting, is_seed, mean_and_spread, objectives, seed_of, settings
from diffadapt.sweeps.report.axis import Axis, make_axis, make_labels
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import ORACLE

METRICS, DIVERSITY = ("objective", "accuracy"), "diversity"
OBJECTIVES = {
    "im": "mutual information of image and prediction",
    "entropy": "minus the mean entropy of the predictions",
    "bnm": "nuclear norm of the predictions",
    "corrc": "class correlation of the predictions",
    "snd": "soft neighbourhood density of the predictions",
    "mano": "norm of the normalised logits",
    ORACLE: "accuracy on target labels",
}


@dataclass(frozen=True)
class View:
    """A sweep as its report sees it. ``settings``: best first; ``axes``: those that vary; ``fixed``: those of
    which only one value was tried; ``seeds``: those that only repeat; ``planned``: trials that it is to have,
    0 where that is not known; ``samples``: metric -> trial id -> {seed: value}."""

    name: str
    description: Mapping[str, Any]
    status: Mapping[str, Any]
    results: tuple[TrialResult, ...]
    settings: tuple[Setting, ...]
    axes: tuple[Axis, ...]
    fixed: tuple[Axis, ...]
    seeds: tuple[str, ...]
    recipes: tuple[str, ...]
    planned: int
    samples: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def best(self) -> Setting | None:
        return self.settings[0] if self.settings else None

    @property
    def columns(self) -> tuple[Axis, ...]:
        """Axes that tables have a column for."""
        return self.axes or self.fixed

    @property
    def population(self) -> str:
        """What has to be said of members of a population; empty of other trials."""
        if (self.description.get("search") or {}).get("scheduler") != "pbt":
            return ""
        return (
            "Members of a population changed their values while they trained: shown are the last ones. A"
            " result stands on the whole history (trials/<id>/policy.json), so the recommended recipe,"
            " trained from its start with the last values, will differ; the member's own model lies in"
            " trials/<id>/model/."
        )

    @cached_property
    def judged(self) -> list[TrialResult]:
        return [r for s in self.settings for r in s.trials]

    @property
    def objective(self) -> str:
        return str(
            (self.description.get("search") or {}).get("objective")
            or next((r.objective_name for r in self.results), "objective")
        )

    @property
    def oracle(self) -> bool:
        return self.objective == ORACLE

    @property
    def chosen_by_labels(self) -> int:
        """Trials in which target labels chose an epoch."""
        return sum(r.selection == ORACLE for r in self.results)

    @cached_property
    def labelled(self) -> bool:
        return any(r.accuracy is not None for r in self.results)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is drawn: the objective, accuracy where it is known and not the objective itself, and the
        diversity of the synthetic images where the settings differ by it."""
        known = METRICS if self.labelled and not self.oracle else ("objective",)
        varied = {value for by_seed in self.samples[DIVERSITY].values() for value in by_seed.values()}
        return (*known, DIVERSITY) if len(varied) > 1 else known

    @property
    def about_diversity(self) -> str:
        """What the Vendi score is, where it is shown."""
        if DIVERSITY not in self.metrics:
            return ""
        return (
            f"{self.title(DIVERSITY)}: effective number of different images among"
            f" {sample_size(self.results)} synthetic ones of a class, mean over classes; no score of the"
            " classifier."
        )

    @cached_property
    def hours(self) -> str:
        """'GPU-hours', 'CPU-hours', or 'device-hours' where trials stand on both."""
        devices = {d.strip() for r in self.results for d in r.device.split(",") if d.strip()}
        if not devices or ("cpu" in devices and len(devices) > 1):
            return "device-hours"
        return "CPU-hours" if devices == {"cpu"} else "GPU-hours"

    @property
    def repeats(self) -> bool:
        """Whether settings were tried more than once, or on several benchmarks."""
        return any(len(s.trials) > 1 for s in self.settings)

    @property
    def ended(self) -> str:
        """How the trials ended so far: '22 finished, 1 stopped early, 1 failed'; empty before the first."""
        return ", ".join(
            f"{self.counts[s]} {w}"
            for s, w in (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed"))
            if self.counts[s]
        )

    @property
    def counts(self) -> Counter[str]:
        return Counter(r.status for r in self.results)

    @property
    def finished(self) -> bool:
        return self.status.get("state") == "finished"

    def benchmark(self, recipe: str) -> str:
        """A recipe's name without the folders that all have in common."""
        parts = [r.split("/") for r in self.recipes]
        common = 0
        while len(parts) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
            common += 1
        return "/".join(recipe.split("/")[common:])

    def title(self, metric: str) -> str:
        if metric == DIVERSITY:
            return f"Vendi score ({sample_size(self.results)})"
        if metric == "accuracy" or self.oracle:
            return "accuracy (%)" if metric == "accuracy" else "accuracy (%), oracle"
        return self.objective

    def number(self, metric: str, value: float | None, spread: float | None = None) -> str:
        """A value of a metric as text, with its deviation where there is one."""
        if value is None or not math.isfinite(value):
            return "-"
        digits = 2 if metric != "objective" or self.oracle else 4
        return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")

    def summary(self, trials: Sequence[TrialResult], metric: str) -> tuple[float, float | None]:
        """(mean, deviation over seeds or None) of a metric over trials; NaN without values."""
        known = self.samples[metric]
        if len(trials) == 1:
            values = list(known[trials[0].id].values())
            if len(values) == 1:
                return values[0], None
        return mean_and_spread(trials, lambda r: known[r.id])

    def seeds_of(self, trials: Sequence[TrialResult], metric: str) -> int:
        """Seeds that every benchmark of the trials has: those that a deviation of :meth:`summary` is over."""
        per_recipe: dict[str, set[str]] = {}
        for r in trials:
            per_recipe.setdefault(r.recipe, set()).update(self.samples[metric][r.id])
        return len(set.intersection(*per_recipe.values())) if per_recipe else 0

    def setting_text(self, result: TrialResult) -> str:
        """'guidance 1.5, fraction 0.9' of a trial's setting; 'the recipe as it is' where only seeds were to
        vary."""
        return (
            ", ".join(f"{a.label} {a.text(result.values.get(a.name))}" for a in self.columns)
            or "the recipe as it is"
        )


def view(sweep: Sweep) -> View:
    """Read a sweep's folder. StoreError when it is none."""
    description = masked(sweep.description())
    results = tuple(TrialResult(**masked(asdict(r))) for r in sweep.results())
    status = sweep.status()
    trials = (status.get("nodes") or {}).get("trials") or {}
    described = description.get("axes") or {}
    fields = {name: tuple(info.get("fields") or (name,)) for name, info in described.items()}
    seeds = tuple(name for name in fields if all(map(is_seed, fields[name])))
    swept = [name for name in described if name not in seeds]
    labels = make_labels(swept)
    axes = [
        make_axis(
            name,
            labels[name],
            fields[name],
            described[name],
            [r.values[name] for r in results if name in r.values],
        )
        for name in swept
    ]
    result = tuple(settings(results))
    recipes = tuple(description.get("recipes") or dict.fromkeys(r.recipe for r in results))
    size = sample_size(results)
    samples = {
        "objective": {r.id: objectives(r) for r in results},
        "accuracy": {r.id: accuracies(r) for r in results},
        DIVERSITY: {r.id: diversities(r, size) for r in results},
    }
    varied, fixed = (tuple(a for a in axes if (len(a.values) > 1) == more) for more in (True, False))
    return View(
        sweep.name,
        description,
        status,
        results,
        result,
        varied,
        fixed,
        seeds,
        recipes,
        int(trials.get("shards") or 0),
        samples,
    )


def accuracies(result: TrialResult) -> dict[str, float]:
    """The accuracy of a trial in percent by seed, those of its recipe told apart where its scores allow;
    empty without labels."""
    if result.accuracy is None:
        return {}
    inner: dict[Any, list[float]] = {}
    for method, seed, _, _, value in result.scores:
        if method == result.method:
            inner.setdefault(seed, []).append(float(value))
    means = {f"{seed_of(result)}/{seed}": float(np.mean(v)) for seed, v in inner.items()}
    whole = len(means) > 1 and abs(float(np.mean(list(means.values()))) - result.accuracy) < 1e-6
    return means if whole else {seed_of(result): result.accuracy}


def sample_size(results: Sequence[TrialResult]) -> str:
    """The largest sample size of which every trial that measured the diversity of its images has it; empty
    without one."""
    known = [set(r.diversity) for r in results if r.diversity]
    return max(set.intersection(*known), key=int, default="") if known else ""


def diversities(result: TrialResult, size: str) -> dict[str, float]:
    """The Vendi score of a trial's synthetic images by its seeds; empty where it is not known."""
    return {seed_of(result): result.diversity[size]} if size in result.diversity else {}
