"""How many items of a stage may be set apart before it counts as failed."""

from __future__ import annotations

from collections.abc import Collection

from diffadapt.core.artifact import Failure
from diffadapt.core.errors import TrainingError


def too_many(failed: int, items: int, allowed: float) -> bool:
    """Whether ``failed`` of ``items`` are more than the fraction ``allowed``."""
    return failed > allowed * items


def demand_few(stage: str, failures: Collection[Failure], items: int, allowed: float) -> None:
    """Raise TrainingError where too many of the ``items`` of a stage are set apart."""
    if not too_many(len(failures), items, allowed):
        return
    first = next(iter(failures))
    reason = first.reason if first.reason.startswith(first.key) else f"{first.key}: {first.reason}"
    error = TrainingError(
        f"The stage {stage} quarantined {len(failures)} of {items} items,"
        f" more than the allowed {allowed:.0%}; the first: {reason.rstrip('.')}. Mend the inputs,"
        " or allow more with --execution.max-failed-fraction; what is finished is kept and"
        " quarantine.jsonl in the run folder lists all."
    )
    error.failures = tuple(failures)
    raise error
