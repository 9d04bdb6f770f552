"""Source images that training never sees, so that what a model says of them is what it would say of new
ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole
from diffadapt.stages.roles import HELD_OUT, KEPT, decisions, row_inputs


@dataclass(frozen=True)
class HoldOut(Stage):
    """Inputs: labelled images, and maybe a filter's decisions on them. Writes kept.parquet as a filter does:
    key, label, kept, reason (the filter's, or 'held-out').

    Metrics: ``images``, ``held_out``, ``per_class`` (name -> held out), ``warnings`` (classes of one image).
    """

    fraction: float = 0.1
    class_names: tuple[str, ...] = ()
    seed: int = 0

    kind = HELD_OUT
    fit_stage = True
    trains = False

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        return whole(inputs)

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        before = [decisions(folder) for folder in job.context.fitted.values()]
        reasons = before[0] if before else {}
        labels: dict[str, int] = {}
        for file in row_inputs(job)[0]:
            rows = job.read(file)
            labels.update(zip(rows.column("key"), rows.column("label"), strict=True))
        if lacking := [key for key, label in labels.items() if label is None]:
            raise DataError(
                f"{lacking[0]} has no label: only labelled images can be held out class by class."
            )
        classes: dict[int, list[str]] = {}
        for key, label in labels.items():
            if not reasons.get(key):
                classes.setdefault(label, []).append(key)
        held = {k for keys in classes.values() for k in chosen(keys, self.fraction, self.seed)}
        keys = sorted(labels)
        why = [HELD_OUT if key in held else reasons.get(key, "") for key in keys]
        table = {"key": keys, "label": [labels[k] for k in keys], "kept": [not w for w in why], "reason": why}
        schema = pa.schema(
            [("key", pa.string()), ("label", pa.int64()), ("kept", pa.bool_()), ("reason", pa.string())]
        )
        pq.write_table(pa.table(table, schema=schema), Path(job.output) / KEPT)
        found = Counter(labels[key] for key in held)
        counts = {name: found[label] for label, name in enumerate(self.class_names)}
        none = [repr(name) for name, count in counts.items() if not count]
        said = (
            f"No source image of {', '.join(none[:5])}{' and more' if none[5:] else ''} is held out: there is"
            " only"
            " one, which training needs."
        )
        return {
            "images": len(keys),
            "held_out": len(held),
            "per_class": counts,
            "warnings": [said] if none else [],
        }


def chosen(keys: Sequence[str], fraction: float, seed: int) -> list[str]:
    """The images of a class that are held out: ``fraction`` of them, at least one, in the order of a hash of
    their keys; never the last one."""
    order = sorted(keys, key=lambda key: (item_seed(seed, "hold-out", key, HELD_OUT), key))
    return order[: min(len(order) - 1, max(1, round(fraction * len(order))))]
