"""Label-free scores of the candidates of a benchmark, transfer by transfer and seed by seed, from the logits
that its nodes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffadapt.core.record import Score
from diffadapt.metrics import validators
from diffadapt.run.held_out import Predictions, adapted_rows
from diffadapt.tasks.classification.validate import NAMES

MANY = 1000
"""Images that SND and ClassAMI, whose work grows faster than their number, are taken of at most."""
OF_SOME = ("snd", "classami")


def label_free(
    manifest: Mapping[str, Any], load: Callable[[str], Predictions], scores: Sequence[Score]
) -> dict[str, Any] | None:
    """``cases``: ``group``, ``seed``, ``images``, ``rows``, and of each row in their order ``scores``
    (validator -> values) and ``true`` (percent of the run's metric, None where no label is known); ``some``:
    images that OF_SOME saw where there are more; ``left_out``: rows whose predictions are not finite. None
    for a run whose validators are a stage, or without two candidates for one target and seed. ``load``:
    prediction node -> key -> (label, logits)."""
    if "validators" in (manifest.get("outputs") or {}):
        return None
    cases: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row, _, _ in adapted_rows(manifest):
        seed = manifest["seed"] if row["seed"] is None else row["seed"]
        cases.setdefault((row["group"], seed), []).append(row)
    first = scores[0].metric if scores else ""
    true = {(s.method, s.group, s.seed): s.value for s in scores if s.metric == first}
    out, most = [], 0
    left_out: list[str] = []
    for (group, seed), rows in cases.items():
        if len(rows) < 2:
            continue
        found = [load(row["members"][0]) for row in rows]
        keys = sorted(set.intersection(*map(set, found)))
        stacked = [np.stack([by_key[k][1] for k in keys]) for by_key in found] if keys else []
        sound = [i for i, z in enumerate(stacked) if np.isfinite(z).all()]
        left_out += [rows[i]["name"] for i in range(len(stacked)) if i not in sound]
        if len(sound) < 2:
            continue
        most = max(most, len(keys))
        names = [rows[i]["name"] for i in sound]
        values = _scores([stacked[i] for i in sound])
        known = [true.get((name, group, seed)) for name in names]
        out.append(
            {
                "group": group,
                "seed": seed,
                "images": len(keys),
                "rows": names,
                "scores": values,
                "true": known,
            }
        )
    if not out:
        return None
    return {"cases": out, "some": MANY if most > MANY else 0, "left_out": list(dict.fromkeys(left_out))}


def _scores(candidates: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Validator -> a score for each candidate's logits (N, K)."""
    n = len(candidates[0])
    some = np.unique(np.linspace(0, n - 1, min(n, MANY)).astype(int))
    whole = [name for name in NAMES if name not in OF_SOME]
    made = [validators.of_stored(whole, z) | validators.of_stored(OF_SOME, z[some]) for z in candidates]
    out = {name: [scores[name] for scores in made] for name in NAMES if name in made[0]}
    out["ensv"] = validators.ensv(np.stack(candidates)).tolist()
    return {name: [round(v, 6) for v in out[name]] for name in NAMES if name in out}
