"""What can be guessed of the accuracy of a run's rows without a label of the target, from the logits that its
nodes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffadapt.audit.answers import image_node
from diffadapt.core.record import softmax
from diffadapt.metrics import unlabelled_accuracy as guess
from diffadapt.run.held_out import Predictions, held_out_nodes, labelled, model_of


def without_labels(manifest: Mapping[str, Any], load: Callable[[str], Predictions]) -> dict[str, Any] | None:
    """``rows``: name, group, guesses (percent) and, where the data have labels, the accuracy; ``missing``:
    what the run lacks for a guess. None for a run without a row that predicts classes. ``load``: prediction
    node -> key -> (label, logits)."""
    nodes, target = manifest["nodes"], (manifest.get("outputs") or {}).get("target")
    rows = [r for r in manifest.get("rows") or () if image_node(nodes, r["members"][0]) is not None]
    source = [r for r in rows if not r["group"] and image_node(nodes, r["members"][0]) != target]
    held_out = {model_of(nodes, r["members"][0]): r["members"][0] for r in source if len(r["members"]) == 1}
    held_out |= held_out_nodes(nodes)
    held_out.pop("", None)
    rows = [r for r in rows if r not in source]
    if not rows:
        return None
    out = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["group"]), []).append(row)
    limits = {model: _limit(found) for model, node in held_out.items() if (found := load(node))}
    for (name, group), alike in groups.items():
        found = _guesses(alike, nodes, limits, load)
        if found:
            out.append({"row": name, "group": group, "seeds": len(alike), **found})
    return {"rows": out, "missing": _missing(bool(limits), any(len(a) > 1 for a in groups.values()))}


def _guesses(
    alike: list[Mapping[str, Any]],
    nodes: Mapping[str, Any],
    limits: Mapping[str, float],
    load: Callable[[str], Predictions],
) -> dict[str, Any]:
    """Guesses and truth, percent, of the seeds of one row."""
    limit = limits.get(model_of(nodes, alike[0]["members"][0])) if len(alike[0]["members"]) == 1 else None
    if limit is None and len(alike) < 2:
        return {}
    members = [[load(m) for m in row["members"]] for row in alike]
    others = [load(row["images_of"]) for row in alike if row["images_of"]]
    keys = [k for k in members[0][0] if all(k in part for parts in [*members, others] for part in parts)]
    if not keys:
        return {}
    predicted = [_predicted(parts, keys) for parts in members]
    known = np.array([-1 if members[0][0][k][0] is None else members[0][0][k][0] for k in keys])
    truth = float(np.mean([(p == known).mean() for p in predicted])) if (known >= 0).all() else None
    confident = None
    if limit is not None:
        parts = [guess.certainty(np.stack([m[k][1] for k in keys])) for (m,) in members]
        confident = float(np.mean([guess.above(scores, limit) for scores in parts]))
    return {
        guess.ATC: _percent(confident),
        guess.AGREEMENT: _percent(guess.agreement(predicted)) if len(predicted) > 1 else None,
        "true": _percent(truth),
    }


def _predicted(members: Sequence[Predictions], keys: Sequence[str]) -> np.ndarray:
    """The classes that a row predicts (SDA equation 5)."""
    return np.asarray(sum(softmax(np.stack([m[k][1] for k in keys])) for m in members)).argmax(1)


def _limit(predictions: Predictions) -> float:
    """ATC's threshold from predictions on labelled source images."""
    logits, labels = labelled(predictions)
    return guess.threshold(guess.certainty(logits), logits.argmax(1) == labels)


def _missing(held_out: bool, several: bool) -> list[str]:
    out = []
    if not held_out:
        out.append(
            f"{guess.ATC} needs the models' predictions on labelled source images that they were not"
            f" trained on, and"
            " this run holds none (Adapt Anything: --held-out 0.1)"
        )
    if not several:
        out.append(f"{guess.AGREEMENT} needs rows that were trained with two seeds or more (--seeds 0 1 2)")
    return out


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
