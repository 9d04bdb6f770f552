"""Who does the work: the runner, the fan of a sweep and the cluster that execution settings ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffadapt.core.config import override
from diffadapt.core.errors import ResourceError
from diffadapt.core.stage import NodePlan
from diffadapt.run.choice import choose, has_ray
from diffadapt.run.runner import ExecutionConfig, Runner

if TYPE_CHECKING:
    from diffadapt.run.sweep import Fan


def make_runner(config: ExecutionConfig) -> Runner:
    """The runner that a recipe's execution settings ask for."""
    import diffadapt.orchestrate  # noqa: F401  # hands in what a local run may ask for too

    choice = choose(config)
    if choice.runner == "ray":
        from diffadapt.orchestrate.runner import RayRunner

        return RayRunner(config)
    if choice.workers > 1:
        from diffadapt.run.local_pool import LocalPool

        return LocalPool(config, choice.workers)
    from diffadapt.run.local import LocalRunner

    return LocalRunner(config)


def for_work(config: ExecutionConfig, plans: Mapping[str, NodePlan]) -> ExecutionConfig:
    """``config``, on this process where ``auto`` would start several that had one shard between them: a
    process of its own costs more than a few images do."""
    if config.runner != "auto" or config.actors or any(len(p.shards) > 1 for p in plans.values()):
        return config
    return override(config, {"runner": "local"}) if choose(config).runner == "local" else config


def make_fan(config: ExecutionConfig) -> Fan:
    """Ray Tune, whose trials run side by side; this process for --execution.runner local, or without Ray."""
    from diffadapt.run.sweep import LocalFan

    if not fans_on_ray(config):
        return LocalFan(make_runner)
    from diffadapt.orchestrate.tune import TuneFan

    return TuneFan(config)


def fans_on_ray(config: ExecutionConfig) -> bool:
    """Whether a sweep's trials go to Ray Tune."""
    return config.runner == "ray" or (config.runner == "auto" and has_ray())


def cluster_layout(config: ExecutionConfig) -> tuple[Any, list[dict[str, float]]] | None:
    """(layout, nodes) of ``config`` on the cluster that --execution.address or RAY_ADDRESS names; None where
    none is named.

    ResourceError, within seconds, for one that does not answer or cannot host what is asked for.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    if config.runner == "local" or not address:
        return None
    try:
        from diffadapt.orchestrate.capacity import cluster_nodes
        from diffadapt.orchestrate.resources import plan_layout
    except ImportError:
        raise ResourceError(
            f"A cluster is named ({address}), but Ray is not installed: install ray[default,data,train,tune],"
            " or leave the address out."
        ) from None
    nodes = cluster_nodes(address)
    return plan_layout(config, nodes), nodes
