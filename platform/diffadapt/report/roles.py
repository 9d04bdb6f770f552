"""What the rows of a run mean and which system made it: as its manifest states it, else as
:mod:`diffadapt.report.old_runs` guesses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.pipeline import Role
from diffadapt.report import old_runs


def system(manifest: Mapping[str, Any]) -> str:
    """The folder under systems/ that knows the run; of a manifest that names none, the likeliest."""
    return str(manifest.get("system") or old_runs.system(manifest))


def roles(manifest: Mapping[str, Any]) -> dict[str, Role]:
    """Row -> role, in the order of the rows; a row that was told of twice by its first telling."""
    rows = manifest.get("rows") or ()
    stated = [Role(**(row.get("role") or {})) for row in rows]
    guessed = {} if all(r.kind for r in stated) else old_runs.by_graph(manifest)
    result: dict[str, Role] = {}
    for row, role in zip(rows, stated, strict=True):
        result.setdefault(row["name"], role if role.kind else guessed.get(row["name"], role))
    return result


def named(roles: Mapping[str, Role], *kinds: str) -> tuple[str, ...]:
    """The rows of these kinds, in order."""
    return tuple(name for name, role in roles.items() if role.kind in kinds)
