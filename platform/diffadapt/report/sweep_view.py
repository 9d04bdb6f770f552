"""What the tables and charts of a sweep are drawn from: its axes, settings and trials, ordered, named and free of credentials."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffadapt.report.mask import masked
from diffadapt.report.provenance import shown
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.recommend import Setting, is_seed, mean_and_spread, objectives, seed_of, settings
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import ORACLE

DISCRETE = 8
"""A range with at most so many different values is drawn like a choice."""
METRICS = ("objective", "accuracy")
OBJECTIVES = {
    "im": "mutual information of image and prediction", "entropy": "minus the mean entropy of the predictions", "bnm": "nuclear norm of the predictions", "corrc": "class correlation of the predictions",
    "snd": "soft neighbourhood density of the predictions", "mano": "norm of the normalised logits", ORACLE: "accuracy on target labels",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One swept field. ``values``: those that trials have, numbers ascending, others as the space lists them. ``log``: drawn on a
    logarithmic scale; ``discrete``: few values, each a place of its own; ``counts``: the number of images or prompts."""

    name: str
    label: str
    fields: tuple[str, ...]
    values: tuple[Any, ...]
    numeric: bool
    log: bool
    discrete: bool
    counts: bool

    def text(self, value: Any) -> str:
        """A value as brief text that no other value of the axis has."""
        text = short(value)
        return text if self.numeric or self._texts[text] < 2 else shown(value)

    @cached_property
    def _texts(self) -> Counter[str]:
        return Counter(short(v) for v in self.values)

    def brief(self, value: Any, length: int) -> str:
        """:meth:`text` in at most ``length`` characters: the beginning, or the end where the beginnings of two values are alike."""
        text = self.text(value)
        if len(text) <= length:
            return text
        alike = sum(self.text(v)[: length - 1] == text[: length - 1] for v in self.values) > 1
        return "…" + text[-(length - 1) :] if alike else text[: length - 1] + "…"

    def place(self, value: Any) -> float:
        """Where a value lies on the axis, 0 to 1: evenly spaced for discrete values, to scale for ranges."""
        if self.discrete:
            return self.index(value) / (len(self.values) - 1) if len(self.values) > 1 else 0.5
        low, high = self.number(self.values[0]), self.number(self.values[-1])
        return (self.number(value) - low) / (high - low) if high > low else 0.5

    def index(self, value: Any) -> int:
        return next((i for i, v in enumerate(self.values) if same(v, value)), 0)

    def number(self, value: Any) -> float:
        """The value as a coordinate: a number or its logarithm, else its place in the order."""
        if not self.numeric:
            return float(self.index(value))
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True)
class View:
    """A sweep as its report sees it. ``settings``: best first; ``axes``: those that vary; ``fixed``: those of which only one value was
    tried; ``seeds``: those that only repeat; ``planned``: trials that it is to have, 0 where that is not known; ``samples``: metric ->
    trial id -> {seed: value}."""

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

    @cached_property
    def judged(self) -> list[TrialResult]:
        return [r for s in self.settings for r in s.trials]

    @property
    def objective(self) -> str:
        return str((self.description.get("search") or {}).get("objective") or next((r.objective_name for r in self.results), "objective"))

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
        """What is drawn: the objective, and accuracy where it is known and not the objective itself."""
        return METRICS if self.labelled and not self.oracle else ("objective",)

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
        if metric == "accuracy" or self.oracle:
            return "accuracy (%)" if metric == "accuracy" else "accuracy (%), oracle"
        return self.objective

    def number(self, metric: str, value: float | None, spread: float | None = None) -> str:
        """A value of a metric as text, with its deviation where there is one."""
        if value is None or not math.isfinite(value):
            return "-"
        digits = 2 if metric == "accuracy" or self.oracle else 4
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
        """'guidance 1.5, fraction 0.9' of a trial's setting; 'the recipe as it is' where only seeds were to vary."""
        return ", ".join(f"{a.label} {a.text(result.values.get(a.name))}" for a in self.axes or self.fixed) or "the recipe as it is"


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
    labels = _labels(swept)
    axes = [_axis(name, labels[name], fields[name], described[name], [r.values[name] for r in results if name in r.values]) for name in swept]
    found = tuple(settings(results))
    recipes = tuple(description.get("recipes") or dict.fromkeys(r.recipe for r in results))
    samples = {"objective": {r.id: objectives(r) for r in results}, "accuracy": {r.id: accuracies(r) for r in results}}
    varied, fixed = (tuple(a for a in axes if (len(a.values) > 1) == more) for more in (True, False))
    return View(sweep.name, description, status, results, found, varied, fixed, seeds, recipes, int(trials.get("shards") or 0), samples)


def accuracies(result: TrialResult) -> dict[str, float]:
    """The accuracy of a trial in percent by seed, those of its recipe told apart where its scores allow; empty without labels."""
    if result.accuracy is None:
        return {}
    inner: dict[Any, list[float]] = {}
    for method, seed, _, _, value in result.scores:
        if method == result.method:
            inner.setdefault(seed, []).append(float(value))
    means = {f"{seed_of(result)}/{seed}": float(np.mean(v)) for seed, v in inner.items()}
    whole = len(means) > 1 and abs(float(np.mean(list(means.values()))) - result.accuracy) < 1e-6
    return means if whole else {seed_of(result): result.accuracy}


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b if isinstance(a, bool) or isinstance(b, bool) else a == b


def short(value: Any, length: int = 28) -> str:
    """A value as brief text; of a long one (a path) the end."""
    text = f"{value:.4g}" if isinstance(value, float) else shown(value)
    return text if len(text) <= length else "…" + text[-(length - 1) :]


def hours_text(hours: float | None) -> str:
    """Hours with three significant digits."""
    return "-" if hours is None else f"{hours:.3g}"


def _axis(name: str, label: str, fields: tuple[str, ...], info: Mapping[str, Any], seen: Sequence[Any]) -> Axis:
    distinct = list({json.dumps(v, sort_keys=True): v for v in seen}.values())
    numeric = bool(distinct) and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in distinct)
    order = {json.dumps(v, sort_keys=True): i for i, v in enumerate(info.get("values") or ())}
    values = sorted(distinct) if numeric else sorted(distinct, key=lambda v: order.get(json.dumps(v, sort_keys=True), len(order)))
    counts = numeric and any(word in part for f in (*fields, name) for part in [f.rpartition(".")[2]] for word in ("images", "prompts", "image_count", "prompt_count"))
    span = values[-1] / values[0] if numeric and values[0] > 0 else 0
    log = numeric and values[0] > 0 and (bool(info.get("log")) or span >= (4 if counts else 10))
    choice = info.get("kind") == "choice"
    return Axis(name, label, fields, tuple(values), numeric, log, choice or len(values) <= DISCRETE or not numeric, counts)


def _labels(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, with more of it where two would be equal."""
    found = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            label = ".".join(parts[-length:])
            if sum(other.split(".")[-length:] == parts[-length:] for other in names) == 1:
                break
        found[name] = label.replace("_", " ")
    return found
