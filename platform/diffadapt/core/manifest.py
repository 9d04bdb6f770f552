"""The manifest of a run: everything that decided its result, nothing about where or how fast it was made."""

from __future__ import annotations

import platform as python_platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from diffadapt import __version__
from diffadapt.core.artifact import Failure
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DamagedError, StoreError
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.redact import scrub
from diffadapt.core.stage import NodePlan

FORMAT = 1
LIBRARIES = (
    "torch",
    "torchvision",
    "ray",
    "diffusers",
    "timm",
    "transformers",
    "numpy",
    "scipy",
    "pillow",
    "pyarrow",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Versions of diffadapt, Python and the libraries that touch the result; read without importing them."""
    result = {"diffadapt": __version__, "python": python_platform.python_version()}
    for name in LIBRARIES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "absent"
    return result


def build(
    recipe: str,
    config: Mapping[str, Any],
    seed: int,
    pipeline: Pipeline,
    plans: Mapping[str, NodePlan],
    quarantined: Mapping[str, Sequence[Failure]],
) -> dict[str, Any]:
    """The manifest as a JSON value; equal for equal work on any runner, worker count and location."""
    nodes = {
        name: {
            "kind": plan.stage.kind,
            "version": plan.stage.version,
            "identity": plan.stage.identity(),
            "revisions": dict(plan.revisions),
            "inputs": list(plan.inputs),
            "family": plan.family,
            "shards": [[p.shard.key, p.digest, p.shard.items, p.path] for p in plan.shards],
            "quarantined": [
                [f.key, f.reason] for f in sorted(quarantined.get(name, ()), key=lambda f: f.key)
            ],
        }
        for name, plan in plans.items()
    }
    return scrub({
        "format": FORMAT,
        "recipe": recipe,
        "seed": seed,
        "config": config,
        "class_names": list(pipeline.class_names),
        "outputs": dict(pipeline.outputs),
        "rows": [asdict(r) for r in pipeline.rows],
        "system": pipeline.system,
        "nodes": nodes,
        "versions": versions(),
    })  # fmt: skip


def run_config(recipe: Any) -> dict[str, Any]:
    """The identity of a recipe, as its manifest keeps it; what weights at hand decide is put in
    (``resolved`` of the recipe types that have it)."""
    return to_dict(getattr(recipe, "resolved", recipe), identity_only=True)


def run_digest(config: Mapping[str, Any], plans: Mapping[str, NodePlan]) -> str:
    """The digest in a run folder's name: the recipe's identity and the digests of all that it makes."""
    return digest(
        {"config": config, "nodes": {n: [p.digest for p in plan.shards] for n, plan in plans.items()}}, 8
    )


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The :func:`run_digest` of what a manifest describes."""
    nodes = {n: [shard[1] for shard in node["shards"]] for n, node in manifest["nodes"].items()}
    return digest({"config": manifest["config"], "nodes": nodes}, 8)


def load(data: bytes, where: str) -> dict[str, Any]:
    """Parse a manifest; StoreError when it is damaged or of another format version."""
    damaged = f"The manifest of {where} is damaged: run the recipe again with the same --root to rewrite it."
    try:
        manifest = parse(data, largest=None)
        found = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise DamagedError(damaged) from None
    if found != FORMAT:
        raise StoreError(
            f"The run {where} was written in format {found}, this version reads format {FORMAT}: run its"
            " recipe again here (finished shards of the same store format are reused), or open it with the"
            " version that wrote it."
        )
    if not {"recipe", "config", "nodes", "outputs"} <= set(manifest):
        raise DamagedError(damaged)
    return manifest
