"""The nodes that a cluster has, and those that its autoscaler can still add: from zero GPU nodes up, never
beyond a limit.

Ray 2.60 keeps a place in the GCS for a cluster's node types, but neither autoscaler (v1, v2, KubeRay) fills
it. So they are also read where the autoscaler itself reads them: its configuration file on the head node
(`ray up` puts it there), or the RayCluster resource, which the head pod may read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from diffadapt.core.machine import nvidia_gpus
from diffadapt.orchestrate import internals
from diffadapt.orchestrate.connection import MIN_LOGICAL_CPUS, Connection, named_address
from diffadapt.run.runner import ExecutionConfig

POSSIBLE = "possible"
"""Key, beside CPU and GPU, of a node that does not exist yet."""
MOST_NODES = 1024
"""Nodes of one type that are counted where there is no limit."""
ASK_SECONDS = 30.0
HEAD = "node:__internal_head__"
_GROUP_LABEL = "ray.io/node-group"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger(__name__)
_known: dict[str, NodeTypes] = {}


@dataclass(frozen=True)
class NodeType:
    """One kind of worker that an autoscaler may start: ``most`` of them at a time."""

    name: str
    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class NodeTypes:
    """What an autoscaler may start: at most ``most`` workers in all."""

    types: tuple[NodeType, ...] = ()
    most: int = MOST_NODES


def cluster_nodes(address: str | None = None) -> list[dict[str, float]]:
    """Total resources ({"CPU": 8.0, "GPU": 1.0, ...}) of every living node, then of every node that the
    autoscaler can still add; these carry ``POSSIBLE``.

    Of the cluster that this process is connected to; else of the one at ``address`` (or RAY_ADDRESS), which
    is joined for the moment; else of this machine, without starting Ray. Raises ResourceError when the
    address does not answer.
    """
    if ray.is_initialized():
        return [*living_nodes(), *possible_nodes()]
    config = ExecutionConfig(address=address)
    if named_address(config) is None:
        return [this_machine()]
    connection = Connection(config)
    connection.open()
    try:
        return [*living_nodes(), *possible_nodes()]
    finally:
        connection.close()


def living_nodes() -> list[dict[str, float]]:
    """Total resources of every living node of the connected cluster; a head that only drives has no CPU
    entry."""
    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def possible_nodes() -> list[dict[str, float]]:
    """Resources of the nodes that the autoscaler of the connected cluster can add to the living ones; empty
    without one."""
    result = _node_types()
    workers = [n for n in ray.nodes() if n["Alive"] and HEAD not in n["Resources"]]
    return remaining(result, [(n.get("Labels", {}).get(_GROUP_LABEL, ""), n["Resources"]) for n in workers])


def remaining(found: NodeTypes, workers: list[tuple[str, Mapping[str, float]]]) -> list[dict[str, float]]:
    """What may come beside ``workers`` (type or "", resources) under the limits of ``found``; where the
    common limit is the narrower one, the nodes with most GPUs and CPUs are counted."""
    left = {t.name: t.most for t in found.types}
    for name, resources in workers:
        if name not in left:
            name = next(
                (t.name for t in found.types if left[t.name] > 0 and _same(t.resources, resources)), ""
            )
        if name in left:
            left[name] -= 1
    nodes = [
        {**t.resources, POSSIBLE: 1.0}
        for t in found.types
        for _ in range(max(0, min(left[t.name], MOST_NODES)))
    ]
    nodes.sort(key=lambda n: (-n.get("GPU", 0.0), -n.get("CPU", 0.0)))
    return nodes[: max(0, found.most - len(workers))]


def this_machine() -> dict[str, float]:
    """What a Ray that is started here would have."""
    try:
        found = internals.piece("accelerators")
        manager = found[0]("GPU") if found else None
        gpus = manager.get_current_node_num_accelerators() if manager else 0 if found else nvidia_gpus()
    except Exception:  # a driver that cannot be asked has no GPUs to give
        log.debug("GPUs could not be counted.", exc_info=True)
        gpus = 0
    return {"CPU": float(max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)), "GPU": float(gpus)}


def _node_types() -> NodeTypes:
    """The autoscaler's node types; asked once for each cluster."""
    address = ray.get_runtime_context().gcs_address
    if address not in _known:
        _known[address] = _reported() or _asked(address) or NodeTypes()
    return _known[address]


def _reported() -> NodeTypes | None:
    """What the platform told the GCS, on those that do."""
    found = internals.piece("node groups")
    config = found[0]() if found else None
    groups = list(config.node_group_configs) if config else []
    types = tuple(
        NodeType(g.name, dict(g.resources), g.max_count if g.max_count >= 0 else MOST_NODES)
        for g in groups
        if g.resources
    )
    return NodeTypes(types, sum(t.most for t in types)) if types else None


def _asked(address: str) -> NodeTypes | None:
    """What the head node knows; asked there if this is another node."""
    here = ray.get_runtime_context().get_node_id()
    heads = {n["NodeID"] for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]}
    if here in heads or not heads:
        return known_on_head(address)
    reference = _ask.options(resources={HEAD: 0.001}).remote(address)
    try:
        return ray.get(reference, timeout=ASK_SECONDS)
    except Exception:  # the cluster then counts as one of fixed size
        log.debug("The head node did not tell its node types.", exc_info=True)
        ray.cancel(reference, force=True)
        return None


@ray.remote(num_cpus=0, max_retries=0)
def _ask(address: str) -> NodeTypes | None:
    return known_on_head(address)


def known_on_head(address: str) -> NodeTypes | None:
    """Node types of the autoscaler that runs for the cluster ``address`` (host:port) on this machine or, in a
    pod of KubeRay, beside it; None if there is none or it cannot be read."""
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and os.environ.get("RAY_CLUSTER_NAME"):
            return _of_kuberay(os.environ["RAY_CLUSTER_NAME"])
        path = _configuration_file(address)
        return of_configuration(_read_yaml(path)) if path else None
    except Exception:
        log.debug("The autoscaler's node types could not be read.", exc_info=True)
        return None


def of_configuration(config: Mapping[str, Any]) -> NodeTypes:
    """Node types of an autoscaler's configuration, as `ray up` takes it and KubeRay derives it."""
    most = int(config.get("max_workers", 2))  # Ray's own default
    result = []
    for name, group in (config.get("available_node_types") or {}).items():
        resources = {k: float(v) for k, v in (group.get("resources") or {}).items()}
        limit = min(int(group.get("max_workers", most)), most)
        if resources and limit > 0:
            result.append(NodeType(name, resources, limit))
    return NodeTypes(tuple(result), most)


def _configuration_file(address: str) -> str | None:
    """The file that the autoscaler's process of this cluster was started with."""
    by_port = set()
    for words in _monitors():
        path, gcs = (
            next((w.partition("=")[2] for w in words if w.startswith(f"--{option}=")), "")
            for option in ("autoscaling-config", "gcs-address")
        )
        if gcs == address:
            return path or None
        if (
            gcs.rpartition(":")[2] == address.rpartition(":")[2]
        ):  # the same GCS under another name of this machine
            by_port.add(path)
    return by_port.pop() or None if len(by_port) == 1 else None


def _monitors() -> Iterator[list[str]]:
    """Command lines of the autoscaler processes of this machine."""
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        try:
            words = (
                (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if entry.name.isdigit()
                else []
            )
        except OSError:  # it has just ended
            continue
        if any(w.endswith("monitor.py") for w in words[:4]):
            yield words


def _read_yaml(path: str) -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load(Path(path).expanduser().read_text()) or {}


def _of_kuberay(name: str) -> NodeTypes | None:
    if (found := internals.piece("kuberay")) is None:
        return None
    derive, client = found
    namespace = os.environ.get("RAY_CLUSTER_NAMESPACE") or _POD_NAMESPACE.read_text().strip()
    cluster = client(namespace=namespace).get(f"rayclusters/{name}")
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return None
    return of_configuration(derive(cluster))


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return all(a.get(k, 0.0) == b.get(k, 0.0) for k in ("CPU", "GPU"))
