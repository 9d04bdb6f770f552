"""The shares of the classes in a run's target, estimated from the logits that its nodes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffadapt.core.pipeline import SOURCE
from diffadapt.metrics import class_shares
from diffadapt.run.held_out import Predictions, adapted_rows, held_out_nodes, labelled, logits_of, model_of


def shares_of(
    manifest: Mapping[str, Any],
    load: Callable[[str], Predictions],
    metrics: Callable[[str], Mapping[str, Any]],
) -> dict[str, Any] | None:
    """``rows``: name, group, ``how``, and in percent, class by class, what is ``estimated``, ``predicted``
    and (where all images have labels) ``true``, with the total variation of both; ``absent``: classes that
    are probably not there; ``left_out``: rows without an estimate. None for a run without a row of
    adaptation. ``load``: prediction node -> key -> (label, logits); ``metrics``: what a fit recorded."""
    nodes, names = manifest["nodes"], manifest.get("class_names") or ()
    # A class of one image has none to spare, so that a recipe that holds images out may have none.
    held_out = {m: n for m, n in held_out_nodes(nodes).items() if len(labelled(load(n))[1])}
    left_out = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row, _, model in adapted_rows(manifest):
        # Without held-out images a fit of stage 2 learned the shares of pseudo-labels, not the source's, and
        # MLLS makes nothing of a model that was not adapted (off by 57 to 67 points on Office-31).
        adapted = nodes[model]["kind"] == "uda" and (row.get("role") or {}).get("kind") != SOURCE
        if model not in held_out and not (adapted and metrics(model).get("source_per_class")):
            left_out.append(row["name"])
            continue
        groups.setdefault((row["name"], row["group"]), []).append(row)
    out = []
    for (name, group), alike in groups.items():
        found = [_of_row(nodes, row["members"][0], held_out, load, metrics, names) for row in alike]
        out.append({"row": name, "group": group, "seeds": len(alike), **_mean(found, names)})
    if not out and not left_out:
        return None
    return {"classes": list(names), "rows": out, "left_out": list(dict.fromkeys(left_out))}


def _of_row(
    nodes: Mapping[str, Any],
    node: str,
    held_out: Mapping[str, str],
    load: Callable[[str], Predictions],
    metrics: Callable[[str], Mapping[str, Any]],
    names: Any,
) -> dict[str, Any]:
    predictions, model = load(node), model_of(nodes, node)
    logits = logits_of(predictions)
    known = labelled(load(held_out[model])) if model in held_out else None
    if known is None:
        counts = metrics(model)["source_per_class"]
        prior = np.array([counts[name] for name in names], np.float64)
    else:
        prior = np.zeros(0)
    found = class_shares.estimate(logits, prior, known)
    labels = [label for label, _ in predictions.values()]
    k = logits.shape[1]
    true = None if None in labels else np.bincount(np.array(labels), minlength=k) / len(labels)
    predicted = np.bincount(logits.argmax(1), minlength=k) / len(logits)
    return {"how": found.how, "estimated": found.shares, "predicted": predicted, "true": true}


def _mean(found: list[dict[str, Any]], names: Any) -> dict[str, Any]:
    """The mean over seeds, in percent."""
    estimated, predicted = (np.mean([f[w] for f in found], axis=0) for w in ("estimated", "predicted"))
    true = found[0]["true"]
    errors = {
        f"{w}_error": None
        if true is None
        else _percent(np.mean([class_shares.distance(f[w], true) for f in found]))
        for w in ("estimated", "predicted")
    }
    return {
        "how": found[0]["how"],
        "estimated": _percent(estimated),
        "predicted": _percent(predicted),
        "true": None if true is None else _percent(true),
        **errors,
        "absent": [names[i] for i in np.flatnonzero(class_shares.absent(estimated))],
    }


def _percent(value: Any) -> Any:
    return np.round(100 * np.asarray(value), 2).tolist()
