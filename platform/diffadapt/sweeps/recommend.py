"""The setting that a sweep recommends, as a file that ``diffadapt run`` takes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffadapt.core.manifest import scrub
from diffadapt.sweeps.result import TrialResult

SEED_FIELDS = ("seed", "seeds")


def setting(result: TrialResult) -> dict[str, Any]:
    """The trial's axis values without those that only repeat it (seeds)."""
    return {k: v for k, v in result.values.items() if k.rpartition(".")[2] not in SEED_FIELDS}


def by_setting(results: Sequence[TrialResult]) -> list[list[TrialResult]]:
    """Finished trials that differ by seed or benchmark alone, together; settings in the order of their first trial."""
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    for r in results:
        if r.status == "finished" and r.objective is not None:
            groups[json.dumps(setting(r), sort_keys=True)].append(r)
    return list(groups.values())


def recommend(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials of the setting with the best mean objective over the benchmarks and seeds that the most complete settings have;
    empty when nothing finished. Ties go to the setting with fewer device hours, then to the earlier one."""
    groups = by_setting(results)
    if not groups:
        return []
    fullest = max(map(len, groups))
    return max((g for g in groups if len(g) == fullest), key=lambda g: (_mean(g), -(_hours(g)), -g[0].number))


def recommendation(results: Sequence[TrialResult], overrides: Mapping[str, Any]) -> bytes | None:
    """recommended.json: {"recipe", "overrides", "why"} of the best setting, its first benchmark and seed; None when nothing finished.

    ``overrides`` are the changes that the sweep's recipe carried already.
    """
    best = recommend(results)
    if not best:
        return None
    first = min(best, key=lambda r: r.number)
    why = f"best mean {first.objective_name} ({_mean(best):.4f}) of {len(by_setting(results))} settings over {len(best)} trial{'s' * (len(best) != 1)} each"
    value = {"recipe": first.recipe, "overrides": {**overrides, **first.changes, **first.adjusted}, "why": why}
    return json.dumps(scrub(value), indent=1).encode()


def _mean(group: Sequence[TrialResult]) -> float:
    return float(np.mean([r.objective for r in group]))


def _hours(group: Sequence[TrialResult]) -> float:
    return sum(r.device_hours or 0.0 for r in group)
