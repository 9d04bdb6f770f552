"""What a run's files say about how it was made: settings, weights, versions, quarantine, and the command to
repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from diffadapt.core.foreign import parse
from diffadapt.core.redact import redact
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.report.mask import HIDDEN, masked


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> leaf of a JSON value; lists of plain values stay whole."""
    if isinstance(value, Mapping) and value:
        return {
            k: v
            for name, part in value.items()
            for k, v in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        return {
            k: v
            for i, part in enumerate(value)
            for k, v in flatten(part, f"{prefix}.{i}" if prefix else str(i)).items()
        }
    return {prefix: value}


def shown(value: Any) -> str:
    """A leaf as text: lists comma-separated, None as 'none'."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(v) for v in value)
    return "{}" if value == {} else str(value)


def optional_json(run: Run, name: str) -> dict[str, Any]:
    """A JSON object of the run folder; empty when it is missing or none. StoreError when it is not what a
    finished run wrote."""
    try:
        value = parse(run.read(name)) if run.has(name) else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def warnings(run: Run) -> list[str]:
    """What finished stages had to say, one sentence each. StoreError when the file is not what a finished run
    wrote."""
    try:
        said = parse(run.read("warnings.json")) if run.has("warnings.json") else []
        return [f"{masked(str(w['sentence']))} [{w['node']}]" for w in said]
    except (ValueError, KeyError, TypeError):
        return []


def fit_metrics(run: Run, manifest: Mapping[str, Any], node: str) -> dict[str, Any]:
    """What a fit recorded about itself; empty when its folder is no longer in the store. StoreError when it
    is damaged."""
    try:
        fit = Sealed(run.root.store, manifest["nodes"][node]["shards"][0][3])
    except (LookupError, TypeError, AttributeError):
        return {}
    if not fit.exists() or "metrics.json" not in fit.names():
        return {}
    value = fit.read_json("metrics.json")
    return masked(value) if isinstance(value, dict) else {}


def settings(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The recipe's identity fields, grouped by their first name; secrets masked."""
    config = masked(manifest.get("config") or {})
    plain = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    groups = [("recipe", flatten(plain))] if plain else []
    groups += [(k, flatten(v)) for k, v in config.items() if isinstance(v, Mapping)]
    return [(name, [(k, shown(v)) for k, v in leaves.items()]) for name, leaves in groups]


def weights(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(role, revision, stages that use it), once for each weight revision."""
    users: dict[tuple[str, str], list[str]] = {}
    for node, info in (manifest.get("nodes") or {}).items():
        for role, revision in (info.get("revisions") or {}).items():
            users.setdefault((masked(str(role)), masked(shown(revision))), []).append(node)
    return [(role, revision, ", ".join(nodes)) for (role, revision), nodes in sorted(users.items())]


def stages(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a stage: name, kind with version, inputs, shards, items, quarantined, family digest."""
    return [
        {
            "name": name,
            "kind": f"{info.get('kind', '')} v{info.get('version', '')}",
            "inputs": ", ".join(info.get("inputs") or ()),
            "shards": len(info.get("shards") or ()),
            "items": sum(s[2] for s in info.get("shards") or ()),
            "quarantined": len(info.get("quarantined") or ()),
            "family": str(info.get("family", ""))[:12],
        }
        for name, info in (manifest.get("nodes") or {}).items()
    ]


def quarantine(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(stage, item, reason) of every quarantined item."""
    return [
        (node, masked(str(k)), masked(str(r)))
        for node, info in (manifest.get("nodes") or {}).items()
        for k, r in info.get("quarantined") or ()
    ]


def command(run: Run, manifest: Mapping[str, Any]) -> tuple[str, bool]:
    """The command that makes the run again, and whether it is whole.

    It is whole when ``recipe.json`` holds the ``overrides`` that the recipe was given (dotted name -> value).
    """
    known = optional_json(run, "recipe.json").get("overrides")
    words = ["diffadapt", "run", str(manifest.get("recipe", "")), "--root", redact(run.root.location)]
    for name, value in masked(known).items() if isinstance(known, Mapping) else ():
        words.append("--" + str(name).replace("_", "-"))
        words += map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
    return " ".join(w if w == HIDDEN else shlex.quote(w) for w in words), isinstance(known, Mapping)


def duration(execution: Mapping[str, Any]) -> str:
    """'3 min 20 s' of ``execution.json``, or an empty string when it was not recorded."""
    seconds = execution.get("seconds")
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return ""
    from diffadapt.core.units import format_seconds

    return format_seconds(seconds) if seconds >= 10 else f"{seconds:.1f} s"
