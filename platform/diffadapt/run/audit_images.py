"""The images of a run's target as a person looks at them: from the store, or from the user's files where
these were read in place."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core import recipes
from diffadapt.core.errors import DataError
from diffadapt.core.runs import Run
from diffadapt.core.stage import plan_node


def image_bytes(run: Run, wanted: Mapping[str, str], recipe: Any = None) -> dict[str, bytes]:
    """Key -> encoded image of every key of ``wanted`` (key -> node of the manifest that holds it).
    ``recipe``: the run's own, where it is at hand, else that which its recipe.json names. Raises DataError
    for images that are no longer there or no longer those of the run."""
    nodes = run.manifest()["nodes"]
    found: dict[str, bytes] = {}
    stages: Mapping[str, Any] = {}
    for node in dict.fromkeys(wanted.values()):
        keys = [k for k, n in wanted.items() if n == node]
        shards = nodes[node]["shards"]
        if shards and shards[0][3] is not None:
            found.update(_stored(run, shards, keys))
        else:
            stages = stages or {n.name: n.stage for n in (recipe or _recipe(run)).pipeline().nodes}
            found.update(_read(run, node, stages, shards, keys))
    if missing := [k for k in wanted if k not in found]:
        raise DataError(
            f"{len(missing)} of the images of {run.name} are no longer there, such as {missing[0]!r}: run"
            " its recipe again, or put the files back."
        )
    return found


def _recipe(run: Run) -> Any:
    return recipes.load(posixpath.join(run.url, "recipe.json"))


def _stored(run: Run, shards: Sequence[Sequence[Any]], keys: Sequence[str]) -> dict[str, bytes]:
    left, found = set(keys), {}
    groups = {"/".join(k.split("/", 2)[:2]).replace("/", "-") for k in keys}
    # Those that are called as the groups first; of a stand-in, frost(procedural), no shard is called so.
    for _, _, _, path in sorted(shards, key=lambda s: not any(str(s[0]).startswith(g) for g in groups)):
        if not left:
            break
        rows = run.root.store.load(path)
        if not left.isdisjoint(named := rows.column("key")):
            for key, image in zip(named, rows.column("image"), strict=True):
                if key in left:
                    found[key] = image["bytes"]
            left -= set(named)
    return found


def _read(
    run: Run, node: str, stages: Mapping[str, Any], shards: Sequence[Sequence[Any]], keys: Sequence[str]
) -> dict[str, bytes]:
    stage = stages.get(node)
    if stage is None or [p.digest for p in plan_node(node, stage, {}, run.root.store).shards] != [
        digest for _, digest, _, _ in shards
    ]:
        raise DataError(
            f"The images of {run.name} are not those that it was made of: they, or its recipe, changed"
            f" since; run the"
            " recipe again."
        )
    sources = [(group, stage.source(folder)) for group, folder in stage.groups]
    return {
        key: source.read(key[len(group) + 1 :])
        for group, source in sources
        for key in keys
        if source is not None and key.startswith(f"{group}/")
    }
