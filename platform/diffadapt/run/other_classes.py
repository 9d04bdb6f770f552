"""Images of no listed class in a run's target, by the energy of the logits that its nodes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffadapt.metrics import rejection
from diffadapt.run.held_out import Predictions, adapted_rows, held_out_nodes, labelled, logits_of


def others_of(manifest: Mapping[str, Any], load: Callable[[str], Predictions]) -> dict[str, Any] | None:
    """``rows``: name, group, seed, images, the ``limit`` of the energy and how many are above it
    (``rejected``); where the recipe keeps images of unlisted classes (``others``), their number, AUROC and
    FPR95 and the parts of both kinds that are rejected, percent. None for a run without source images held
    out and without such images. ``load``: prediction node -> key -> (label, logits)."""
    keeps = (manifest["config"] or {}).get("unlisted") == "keep"
    held_out = held_out_nodes(manifest["nodes"])
    out = []
    for row, node, model in adapted_rows(manifest):
        if model in held_out or keeps:
            found = _of_row(load(node), load(held_out[model]) if model in held_out else None, keeps)
            out.append({"row": row["name"], "group": row["group"], "seed": row.get("seed"), **found})
    return {"rows": out} if out else None


def rule(
    target: Predictions, held_out: Predictions | None, tpr: float = rejection.TPR
) -> tuple[float, str, int]:
    """(limit of the energy, what it is the quantile of, how many images): of source images that the model was
    not trained on where there are any, else of the target's own."""
    if held_out:
        logits, where = labelled(held_out)[0], "source images that it was not trained on"
    else:
        logits, where = logits_of(target), "images of the run's own target"
    return rejection.limit(rejection.energy(logits), tpr), where, len(logits)


def _of_row(target: Predictions, held_out: Predictions | None, keeps: bool) -> dict[str, Any]:
    limit, where, count = rule(target, held_out)
    energies = rejection.energy(logits_of(target))
    above = energies > limit
    other = np.array([label is None for label, _ in target.values()])
    found: dict[str, Any] = {
        "limit": round(limit, 4),
        "rule": where,
        "of": count,
        "images": len(energies),
        "rejected": int(above.sum()),
    }
    if keeps and other.any() and not other.all():
        known, others = energies[~other], energies[other]
        found |= {
            "others": int(other.sum()),
            "auroc": _percent(rejection.auroc(known, others)),
            "fpr95": _percent(rejection.fpr(known, others)),
            "others_rejected": _percent(above[other].mean()),
            "listed_rejected": _percent(above[~other].mean()),
        }
    return found


def _percent(value: Any) -> float:
    return round(100 * float(value), 2)
