"""Accuracy of SDA against the cost of its projection on the quickstart's digits: 15 corruptions, three seeds.

The level of each aligner of a few calls is chosen without labels on one part of the test digits, and all rows
are scored on the others. What is made lies under DIFFADAPT_BENCH (default: diffadapt-bench/projection in the
user's cache folder): the same command goes on where it was ended.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffadapt.api.runners import make_runner
from diffadapt.core.config import override
from diffadapt.core.pipeline import Pipeline, ancestors
from diffadapt.core.place import write_file
from diffadapt.core.recipes import load
from diffadapt.core.record import predictions_by_key, softmax
from diffadapt.core.runs import Root, Run
from diffadapt.report.charts import as_file
from diffadapt.report.scatter import Spot, scatter
from diffadapt.run.drive import drive
from diffadapt.stages.choose_level import CHOSEN, chosen_level
from diffadapt.systems.predict import _folder
from diffadapt.systems.sda.recipe import SDA
from tests.bench.metric import Metric, Report

CHEAP = ("one-step", "few-step", "x0")
MENDED = "SDA (published loop, noised to its first step)"
CHOOSING, SCORED = (0.0, 0.2), (0.2, 1.0)
"""Parts of each class of the test digits."""
TARGET = 0.5
"""Points below the published SDA that a row of a tenth of the calls may lose."""


@dataclass(frozen=True)
class Amount:
    """How much is measured: digits a class of the test split (None: all 60), corruptions (None: all),
    seeds."""

    per_class: int | None = 20
    corruptions: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    changes: Mapping[str, Any] = field(default_factory=lambda: {"synth.images_per_class": 100})


FULL = Amount()
SMOKE = Amount(
    5,
    2,
    (0, 1),
    {
        "source.limit_per_class": 4,
        "classifier_fit.epochs": 1,
        "synth.images_per_class": 2,
        "synth.images_per_shard": 2,
        "synth.steps": 2,
        "finetune.epochs": 1,
        "level.images": 4,
        "level.levels": (100, 200),
    },
)


def projection(amount: Amount = FULL, place: str | None = None) -> Report:
    """Every row's accuracy, network calls, and difference to the published SDA with its paired standard
    error."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Root(place or os.environ.get("DIFFADAPT_BENCH") or str(home / "diffadapt-bench" / "projection"))
    rows: dict[str, Row] = {}
    levels: dict[str, list[str]] = defaultdict(list)
    for seed in amount.seeds:
        base = recipe(amount, seed)
        chosen = choose(base, root)
        for name, (level, oracle) in chosen.items():
            levels[name].append(f"{level}" if level == oracle else f"{level} ({oracle})")
        scored = replace(base, target=_part(base, SCORED))
        for name, (level, _) in chosen.items():
            at = scored.cheap_align(name).at(level)
            scored = replace(scored, align=replace(at, guidance=scored.align.guidance))
        _count(rows, seed, _run("projection", scored, root), {})
        mended = replace(scored, cheap=(), align=replace(scored.align, noise_at_first_step=True))
        _count(rows, seed, _run("projection-mended", mended, root), {"SDA": MENDED})
    write_file(place := f"{root.location}/projection.svg", chart(rows).encode())
    report = _report(rows, levels, amount)
    return replace(report, conditions=(*report.conditions, f"chart: {place}"))


def chart(rows: Mapping[str, Row]) -> str:
    """Accuracy against forward passes, with the deviation of the seeds, as an .svg file."""
    scores = {
        n: [100 * float(np.mean(list(r.values()))) for r in row.right.values()] for n, row in rows.items()
    }
    spots = [
        Spot(n, row.passes, float(np.mean(scores[n])), float(np.std(scores[n], ddof=1)), n == "SDA")
        for n, row in rows.items()
        if row.passes
    ]
    return as_file(scatter(spots, float(np.mean(scores["Source"])), "accuracy, percent"))


def recipe(amount: Amount, seed: int) -> SDA:
    """The quickstart with the rows that are compared."""
    value = override(
        load("quickstart"),
        {
            **{name: seed for name in SDA.aliases["seed"]},
            "methods": ("source", "dda", "sda"),
            "controls": (),
            "figures": False,
            "cheap": CHEAP,
            "target.data.limit_per_class": amount.per_class,
            "level.images": 300,
            "execution.runner": "local",
            "execution.device": "cpu",
            **amount.changes,
        },
    )
    return replace(
        value, target=replace(value.target, corruptions=value.target.corruptions[: amount.corruptions])
    )


def choose(value: SDA, root: Root) -> dict[str, tuple[int, int]]:
    """Aligner -> (the level chosen on the choosing part, the one that its labels would have chosen)."""
    whole = replace(value, target=_part(value, CHOOSING)).pipeline()
    wanted = {f"level_{name.replace('-', '_')}": name for name in value.cheap}
    needed = set(wanted).union(*(ancestors(whole.nodes, n) for n in wanted))
    nodes = tuple(n for n in whole.nodes if n.name in needed or n.name == "source_on_target")
    outputs = {k: v for k, v in whole.outputs.items() if v in needed}
    pipeline = Pipeline(nodes, whole.rows[:1], whole.class_names, outputs, whole.system)
    run = drive("projection-levels", value, pipeline, root, lambda: make_runner(value.execution))
    manifest, found = run.manifest(), {}
    labels = {k: label for k, (label, _) in _predictions(run, "source_on_target").items()}
    for node, name in wanted.items():
        folder = _folder(run, manifest, node)
        said = json.loads((Path(folder) / CHOSEN).read_bytes())
        right = np.mean([np.array(p) == labels[k] for k, p in said["predicted"].items()], axis=0)
        found[name] = chosen_level(folder), int(list(said["scores"])[int(right.argmax())])
    return found


def _part(value: SDA, part: tuple[float, float]):
    return replace(value.target, data=replace(value.target.data, part=part))


def _run(name: str, value: SDA, root: Root) -> Run:
    return drive(name, value, value.pipeline(), root, lambda: make_runner(value.execution))


def _predictions(run: Run, node: str) -> dict[str, tuple[int | None, np.ndarray]]:
    return predictions_by_key([run.root.store.load(s[3]) for s in run.manifest()["nodes"][node]["shards"]])


@dataclass
class Row:
    """``right``: seed -> image -> whether it is classified rightly; the cost is that of one image."""

    right: dict[int, dict[str, bool]]
    passes: int = 0
    seconds: list[float] | None = None


def _count(rows: dict[str, Row], seed: int, run: Run, names: Mapping[str, str]) -> None:
    """Add the rows of a run; with ``names`` only those, under other names."""
    from diffadapt.systems.sda.cost import measured

    manifest = run.manifest()
    calls = {}
    if run.has("network_calls.json"):
        calls = {r["row"]: r for r in json.loads(run.read("network_calls.json"))["rows"]}
    took = {s["node"]: s["seconds"] / s["number"] for s in measured(run, manifest) if s["number"]}
    for row in manifest["rows"]:
        if row["name"] == "Source" and "source_on_clean" in row["members"]:
            continue
        if names and row["name"] not in names:
            continue
        found = [_predictions(run, m) for m in row["members"]]
        keys = sorted(set.intersection(*map(set, found)))
        p = sum(softmax(np.stack([part[k][1] for k in keys])) for part in found)
        truth = np.array([found[0][k][0] for k in keys])
        mine = rows.setdefault(names.get(row["name"], row["name"]), Row({}))
        mine.right[seed] = dict(zip(keys, (np.asarray(p).argmax(1) == truth).tolist(), strict=True))
        if known := calls.get(row["name"]):
            mine.passes = known["passes"]
            mine.seconds = [*(mine.seconds or []), took.get(known["node"], float("nan"))]
        elif names:
            mine.passes = load("quickstart").align.cost.passes


def paired(a: Row, b: Row) -> tuple[float, float, list[float]]:
    """Points of ``a`` above ``b``: the mean, its standard error over the digits (each of which recurs under
    all corruptions and seeds), and the difference with each seed."""
    by_digit: dict[str, list[float]] = defaultdict(list)
    by_seed = []
    for seed, right in a.right.items():
        gains = {k: 100.0 * (float(v) - float(b.right[seed][k])) for k, v in right.items()}
        by_seed.append(float(np.mean(list(gains.values()))))
        for key, gain in gains.items():
            by_digit[key.split("/", 2)[2]].append(gain)
    means = np.array([np.mean(v) for v in by_digit.values()])
    return float(np.mean(by_seed)), float(means.std(ddof=1) / len(means) ** 0.5), by_seed


def _report(rows: dict[str, Row], levels: Mapping[str, list[str]], amount: Amount) -> Report:
    published = rows["SDA"]
    metrics, lines = [], []
    order = sorted(rows, key=lambda n: (rows[n].passes, n))
    for name in order:
        row = rows[name]
        accuracy = [100 * float(np.mean(list(r.values()))) for r in row.right.values()]
        mean, error, by_seed = paired(row, published)
        seconds = "" if not row.seconds else f", {1000 * float(np.mean(row.seconds)):.2f} ms"
        note = f"{row.passes} passes{seconds}; by seed {' '.join(f'{v:.1f}' for v in accuracy)}"
        metrics.append(Metric(f"{name}: accuracy", float(np.mean(accuracy)), "%", note=note))
        if row is not published:
            seeds = " ".join(f"{v:+.1f}" for v in by_seed)
            note = f"paired standard error {error:.2f}; by seed {seeds}"
            cheap = row.passes and published.passes >= 9 * row.passes and amount is FULL
            target = -TARGET if cheap else None
            metrics.append(Metric(f"{name}: against SDA", mean, "points", target, note=note))
    first = next(iter(published.right.values()))
    digits, groups = ({k.split("/", 2)[i] for k in first} for i in (2, 0))
    lines.append(
        f"{len(published.right)} seeds, {len(first)} scored images a seed ({len(digits)} digits under"
        f" {len(groups)} corruptions)"
    )
    for name, said in levels.items():
        lines.append(f"level of {name}, by seed (what labels would have chosen): {', '.join(said)}")
    return Report("Accuracy against the cost of projection", metrics, lines)
