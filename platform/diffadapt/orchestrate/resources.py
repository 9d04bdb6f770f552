"""What a cluster has, what one worker takes of it, and the check that a request fits before anything is
started."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from diffadapt.core.errors import ResourceError
from diffadapt.orchestrate.capacity import POSSIBLE
from diffadapt.run.runner import ExecutionConfig

CPUS_PER_THREAD = 0.5
"""Logical CPUs that a worker reserves for each of its threads; below 1, so that Ray's own tasks always find
room."""
CPUS_BESIDE_GPU = 0.1
"""What a worker on a GPU reserves. Its readers (run/readers.py) run on its GPU's share of the cores, and wait
most of the time: reserved, they would keep out Ray's own tasks and all work without a GPU."""
LEAVES_ONE = 8
"""Actors of a pool on GPUs from which on it is smaller by one while fits are to come."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Share:
    """What one worker process reserves."""

    cpus: float
    gpus: float = 0.0

    def fits(self, resources: dict[str, float]) -> int:
        """How many such workers a node with ``resources`` can host."""
        room = int(resources.get("CPU", 0.0) / self.cpus + _ROUNDING)
        if self.gpus:
            room = min(room, _gpu_slots(resources.get("GPU", 0.0), self.gpus))
        return room


@dataclass(frozen=True)
class Layout:
    """A request that was checked against the cluster: device, pool and training group."""

    device: str
    actor: Share
    actors: int
    """Actors of the pool."""
    trainer: Share
    train_workers: int
    """Data-parallel workers of each fit."""
    lanes: int
    """Fits of one wave that can run side by side when each has one worker."""
    threads: int


def plan_layout(
    config: ExecutionConfig, nodes: list[dict[str, float]], cores: int | None = None, *, shrink: bool = False
) -> Layout:
    """Choose device and sizes for ``config`` on ``nodes``, living and possible ones (capacity.cluster_nodes).
    ``cores`` bounds CPU workers on a machine whose logical CPUs were set higher; None takes the nodes' CPUs.
    With ``shrink`` a pool that no longer fits (nodes were lost) gets smaller.

    Raises ResourceError, in one sentence, for GPUs that are not there, a pool or a training group that does
    not fit, and a share of GPUs that no node can host.
    """
    threads = max(1, config.threads)
    gpus = sum(n.get("GPU", 0.0) for n in nodes)
    device = _device(config, gpus)
    if device == "cpu":
        actor = trainer = Share(CPUS_PER_THREAD * threads)
        room = train_room = _room(nodes, actor, f"--execution.threads {config.threads}")
        natural = max(
            1, int(cores if cores is not None else sum(n.get("CPU", 0.0) for n in nodes)) // threads
        )
    else:
        _demand_share(config.gpus_per_actor)
        actor, trainer = Share(CPUS_BESIDE_GPU, config.gpus_per_actor), Share(CPUS_BESIDE_GPU, 1.0)
        room = _room(nodes, actor, f"--execution.gpus-per-actor {config.gpus_per_actor:g}")
        train_room = sum(trainer.fits(n) for n in nodes)
        natural = room
    if config.actors > room and not shrink:
        raise ResourceError(
            f"--execution.actors {config.actors} is more than the cluster can host ({room} on"
            f" {_describe(nodes)}): ask for fewer, or 0 for as many as fit."
        )
    if config.train_workers > train_room and not shrink:  # by the time of the next fit the nodes may be back
        raise ResourceError(
            f"--execution.train-workers {config.train_workers} is more than the cluster can host"
            f" ({train_room} on {_describe(nodes)}): ask for fewer, or add nodes."
        )
    natural = min(natural, room)
    return Layout(
        device=device,
        actor=actor,
        actors=min(config.actors or natural, room),
        trainer=trainer,
        train_workers=max(1, config.train_workers),
        lanes=max(1, min(train_room, natural if device == "cpu" else train_room)),
        threads=threads,
    )


def leave_one(layout: Layout) -> Layout:
    """A pool on GPUs that leaves one of its actors' to the fits beside it, where it has so many that this
    costs less than the fits would at its end; on CPUs there is room for both."""
    if layout.device == "cpu" or layout.actors < LEAVES_ONE:
        return layout
    return replace(layout, actors=layout.actors - math.ceil(layout.trainer.gpus / layout.actor.gpus))


def _device(config: ExecutionConfig, gpus: float) -> str:
    if config.device == "auto":
        return "cuda" if gpus >= 1 else "cpu"
    if config.device.startswith("cuda"):
        if gpus < 1:
            raise ResourceError(
                "--execution.device cuda was asked for but the cluster has no GPUs and no autoscaler whose"
                " settings say that it can add some: use --execution.device cpu, or add GPU nodes."
            )
        return "cuda"
    return "cpu"


def _demand_share(gpus: float) -> None:
    if gpus <= 0 or (gpus > 1 and gpus != int(gpus)):
        raise ResourceError(
            f"--execution.gpus-per-actor {gpus:g} is not a share that Ray can give: use a fraction up to 1,"
            " such as 0.5, or a whole number."
        )


def _room(nodes: list[dict[str, float]], share: Share, flag: str) -> int:
    room = sum(share.fits(n) for n in nodes)
    if room == 0:
        raise ResourceError(
            f"{flag} asks for more than any node of the cluster has ({_describe(nodes)}): ask for less."
        )
    return room


def _gpu_slots(gpus: float, share: float) -> int:
    if share >= 1:
        return int(gpus // share)
    return int(gpus) * int(1 / share + _ROUNDING)


def _describe(nodes: list[dict[str, float]]) -> str:
    living, possible = ([n for n in nodes if (POSSIBLE in n) == coming] for coming in (False, True))
    text = _count(living)
    return f"{text}, and {_count(possible)} that the autoscaler can add" if possible else text


def _count(nodes: list[dict[str, float]]) -> str:
    cpus, gpus = (sum(n.get(k, 0.0) for n in nodes) for k in ("CPU", "GPU"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"
