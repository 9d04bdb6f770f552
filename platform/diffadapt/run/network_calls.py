"""What the projection of each row of a run costs, in calls of the unconditional network, and the level of
noise that was chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffadapt.core.flops import need
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.models.counts import KnownCounts
from diffadapt.run.held_out import Predictions
from diffadapt.stages.align import Align
from diffadapt.stages.choose_level import CHOSEN, LEVEL
from diffadapt.tasks.classification.predict import Predict

FILE = "network_calls.json"
"""In the run's folder."""


def network_calls(
    pipeline: Pipeline, plans: Mapping[str, NodePlan], store: Store, load: Callable[[str], Predictions]
) -> dict[str, Any] | None:
    """``rows``: for each row one member of which sees projected images its ``row``, ``node`` (the
    projection), ``aligner``, calls an image (``forward``, ``backward``, ``passes``; None where the aligner
    does not say) and ``level``: None, or what was chosen, with the level that labels would have chosen where
    the sample has some, and ``gflop`` an image. None for a run without a row of
    ``cheap``."""
    rows = []
    for row in pipeline.rows:
        for node in _projections(row.members, plans):
            stage: Any = plans[node].stage
            config, cost = stage.config, stage.config.cost
            levels = [n for n in plans[node].inputs if plans[n].stage.kind == LEVEL]
            rows.append(
                {
                    "row": row.name,
                    "control": row.control,
                    "node": node,
                    "aligner": config.guidance,
                    **({"passes": None} if cost is None else {**cost._asdict(), "passes": cost.passes}),
                    "gflop": _gflop(plans[node]),
                    "level": _chosen(plans[levels[0]], store, load) if levels else None,
                }
            )
    if not any(r["node"].startswith("projected_") for r in rows):
        return None
    return {"rows": rows}


def _projections(members: tuple[str, ...], plans: Mapping[str, NodePlan]) -> list[str]:
    """The nodes of projected images that the members predict."""
    images = [plans[m].inputs[0] for m in members if isinstance(plans[m].stage, Predict)]
    return [n for n in dict.fromkeys(images) if isinstance(plans[n].stage, Align)]


def _chosen(plan: NodePlan, store: Store, load: Callable[[str], Predictions]) -> dict[str, Any]:
    """What the choice recorded; ``oracle`` and ``accuracy`` (percent by level): of the source classifier on
    the projected sample, by the labels of the data, which the choice did not see."""
    found = Sealed(store, plan.shards[0].path or "").read_json(CHOSEN)
    predicted, levels = found.pop("predicted"), list(found["scores"])
    known = {key: label for key, (label, _) in load("source_on_target").items() if label is not None}
    keys = [key for key in predicted if key in known]
    if keys:
        right = np.array([predicted[k] for k in keys]) == np.array([known[k] for k in keys])[:, None]
        accuracy = 100 * right.mean(0)
        found["accuracy"] = dict(zip(levels, np.round(accuracy, 2).tolist(), strict=True))
        found["oracle"] = int(levels[int(accuracy.argmax())])
    return found


def _gflop(plan: NodePlan) -> float | None:
    """Of the projection of one image, counted (core/flops.py); None where it cannot be."""
    wanted = need(plan.calls, KnownCounts())
    return None if wanted is None else round(wanted.total / 1e9, 6)
