"""Everything of Ray's that Ray does not promise: looked for here, in one place, and done without where a
version has it otherwise.

A piece that is missing costs what its ``loss`` says; that is said once when it is asked for, and by
`diffadapt doctor`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from dataclasses import dataclass
from typing import Any

import ray

from diffadapt.core.versions import RAY

log = logging.getLogger(__name__)
_said: set[str] = set()


@dataclass(frozen=True)
class Piece:
    """``names``: "module:attribute.attribute (parameters that it must take)" of everything that belongs to
    it; ``loss``: what is done without where one of them is missing."""

    loss: str
    names: tuple[str, ...]


_PACKAGING = "ray._private.runtime_env.packaging"
PIECES = {
    "ignored files": Piece(
        "files that .gitignore names travel with a job too",
        (
            f"{_PACKAGING}:_dir_travel(include_gitignore)",
            f"{_PACKAGING}:_get_excludes",
            "ray._private.ray_constants:get_runtime_env_default_excludes",
        ),
    ),
    "upload limit": Piece(
        "how much a job may upload is taken to be 500 MiB", (f"{_PACKAGING}:GCS_STORAGE_MAX_SIZE",)
    ),
    "accelerators": Piece(
        "a plan counts this machine's NVIDIA GPUs alone",
        ("ray._private.accelerators:get_accelerator_manager_for_resource",),
    ),
    "node groups": Piece(
        "nodes that the platform could still add are read from the head node alone",
        ("ray._private.state:state.get_cluster_config",),
    ),
    "kuberay": Piece(
        "nodes that KubeRay could still add are not counted",
        (
            "ray.autoscaler._private.kuberay.autoscaling_config:_derive_autoscaling_config_from_ray_cr",
            "ray.autoscaler._private.kuberay.node_provider:KubernetesHttpApiClient",
        ),
    ),
    "processes": Piece(
        "a run whose Ray is killed by something else ends without a sentence of ours",
        (
            "ray._private.worker:_global_node",
            "ray._private.ray_constants:PROCESS_TYPE_GCS_SERVER",
            "ray._private.node:Node.kill_all_processes(allow_graceful)",
        ),
    ),
    "lost trials": Piece(
        "a trial that runs out of memory ends its search, which the same command resumes",
        (
            "ray.air.execution._internal.actor_manager:RayActorManager",
            "ray.air.execution._internal.actor_manager:RayActorManager._actor_task_failed",
        ),
    ),
    "job client": Piece(
        "no job can be sent",
        ("ray.job_submission:JobSubmissionClient._do_request",),
    ),
}


def piece(name: str) -> list[Any] | None:
    """What belongs to the piece ``name``, in the order of its names; None, after saying once what is lost,
    where this Ray lacks any of it."""
    try:
        return [_found(n) for n in PIECES[name].names]
    except (ImportError, AttributeError, TypeError):
        if name not in _said:
            _said.add(name)
            log.warning("Ray %s has not what this needs (%s): %s.", ray.__version__, name, PIECES[name].loss)
        return None


def missing() -> list[str]:
    """What is done without on this Ray, a sentence each."""
    lost = []
    for name, one in PIECES.items():
        try:
            for n in one.names:
                _found(n)
        except (ImportError, AttributeError, TypeError):
            lost.append(f"{one.loss} ({name})")
    return lost


def _found(name: str) -> Any:
    module, _, rest = name.partition(":")
    path, _, parameters = rest.rstrip(")").partition("(")
    value: Any = importlib.import_module(module)
    for part in path.split("."):
        value = getattr(value, part)
    if parameters and parameters not in inspect.signature(value).parameters:
        raise TypeError(f"{path} does not take {parameters}")
    return value


def websocket(client: Any) -> dict[str, Any] | None:
    """Where and how a job client's logs are followed; None, after saying once what is lost, where this Ray
    keeps it otherwise."""
    try:
        return {
            "url": client._address,
            "cookies": client._cookies,
            "headers": client._headers,
            "ssl": client._ssl_context,
        }
    except AttributeError:
        if "job logs" not in _said:
            _said.add("job logs")
            log.warning("Ray %s: a server that falls silent is not noticed.", ray.__version__)
        return None


_MISMATCH = re.compile(
    r"Version mismatch.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL
)


def mismatch(error: BaseException, address: str) -> str | None:
    """The sentence for a cluster whose Ray or Python is not this process's, or None when ``error``, of
    ray.init, says something else. Nothing has been started by then."""
    if (found := _MISMATCH.search(str(error))) is None:
        return None
    theirs, their_python, ours, our_python = found.groups()
    mend = (
        f"install {RAY}=={theirs} here, start the cluster with =={ours}"
        if theirs != ours
        else f"run this with Python {their_python}, start the cluster with {our_python}"
    )
    return (
        f"The cluster at {address} runs Ray {theirs} on Python {their_python}, and this is Ray {ours} on"
        f" Python {our_python}: a run that joins a cluster needs the same of both: {mend}, or send it as a"
        " job (`diffadapt submit`), which runs on what the cluster has."
    )
