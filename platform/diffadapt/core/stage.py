"""Stages: what can be done to data. A stage is a frozen value; the work itself is in the worker that it
opens.

Three forms, told apart by class attributes:

- map stages make shards from shards or from nothing; one worker (models loaded once) makes many shards;
- virtual stages (``stored = False``) are read, not made: labelled folders, benchmark files;
- fit stages (``fit_stage = True``) read all shards of their inputs and make one folder (a trained model,
  pictures).

Nothing here imports torch; ``open`` and ``fit`` do, in the process that works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

from diffadapt.core.allowance import demand_few
from diffadapt.core.artifact import Failure, Input, Rows, Shard, family_digest, shard_digest
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.flops import Call
from diffadapt.core.store import Store


class Worker(Protocol):
    """Makes shards. Lives as long as its process; holds the models."""

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        """The rows of ``shard``. ``inputs`` are those of ``shard.inputs`` that are shards, in order.

        Raises DiffadaptError for what the user can mend; item failures are returned in ``Rows.failures``,
        those of the inputs included, so that an item which an earlier stage could not make is not silently
        absent.

        A worker that decodes may have a method ``begin(inputs)`` too: it is told, from another thread, which
        inputs come next.
        """
        ...


@dataclass
class WorkContext:
    """What a worker or a fit is given: the device, the folders of fitted inputs by node name, and
    settings."""

    device: str
    fitted: Mapping[str, str] = field(default_factory=dict)
    """Local folders of the fitted artefacts among the inputs."""
    batch_size: int | None = None
    """Overrides the stage's own batch size (after an out-of-memory error)."""
    threads: int = 1
    readers: int = 0
    """Threads that may decode and augment beside the device; 0: none, it is done when it is needed."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The kinds of the stages that made the fitted artefacts, by node name."""

    def fitted_by(self, *kinds: str) -> list[str]:
        """The local folders of the fitted artefacts that stages of these kinds made, in the node's order."""
        return [folder for node, folder in self.fitted.items() if self.kinds.get(node) in kinds]


@dataclass
class FitJob:
    """One fit: lazily readable inputs, where to keep checkpoints, and a local folder to fill."""

    node: str
    inputs: Callable[[str], Sequence[InputFile]]
    """The shards of the named input node."""
    store: Store
    checkpoints: str
    """fsspec URL of a folder for checkpoints; removed after success."""
    output: str
    """Local folder that rank 0 fills; it is committed whole to the store afterwards."""
    context: WorkContext
    reporter: Any
    read: Callable[[InputFile], Rows]
    log_dir: str | None = None
    """Local folder for TensorBoard pictures (rank 0); scalars go through the reporter."""
    files: Sequence[InputFile] = ()
    until: int | None = None
    """Finished steps after which training pauses with a checkpoint; None: it goes to its end."""
    items: int = 0
    """How many items the inputs have."""
    max_failed: float = 1.0
    """The fraction of them that may be set apart."""

    def every_input(self) -> Sequence[InputFile]:
        """All inputs in order, fitted ones included."""
        return self.files

    def count(self, failures: Iterable[Failure]) -> None:
        """Told before a training of all that it goes without. Raises TrainingError where that is too much, so
        that no model is trained that the run would refuse."""
        if self.max_failed < 1.0:
            demand_few(self.node, {f.key: f for f in failures}.values(), self.items, self.max_failed)


@dataclass(frozen=True)
class InputFile:
    """Where one input is: in the store (``path``), or virtual (``shard`` of ``node``)."""

    node: str
    digest: str
    path: str | None
    shard: Shard
    fitted: bool = False
    plan: str = ""
    """The key of its plan where that is not ``node`` (plans of several recipes worked on together)."""
    kind: str = ""
    """The kind of the stage that makes it."""


@dataclass(frozen=True)
class Stage:
    """Base of all stages; subclasses are frozen dataclasses whose fields are their configuration."""

    kind: ClassVar[str] = "stage"
    version: ClassVar[int] = 1
    fit_stage: ClassVar[bool] = False
    stored: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    """Whether a fit stage trains, so that several workers can share it; False: one worker makes it however
    many are allowed."""
    may_warn: ClassVar[bool] = False
    """Whether its shards may carry warnings, which the driver then reads back at the end of a run."""

    def label(self) -> str:
        """A short readable name for the store's folder."""
        return self.kind

    def identity(self) -> dict[str, Any]:
        """All that decides the content apart from inputs: identity fields and weight revisions."""
        return to_dict(self, identity_only=True)

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the data that this stage found, a sentence each; nothing is read for
        it."""
        return ()

    def revisions(self) -> dict[str, str]:
        """Weight revisions by role, for the manifest; included in the digest by :meth:`plan`'s caller."""
        return {}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        """The shards this stage makes, given the plans of its inputs. Validates everything that can be known
        beforehand."""
        raise NotImplementedError

    def open(self, context: WorkContext) -> Worker:
        """Load what the work needs (map and virtual stages)."""
        raise NotImplementedError

    def fit(self, job: FitJob) -> dict[str, Any]:
        """Do the work of a fit stage and return its metrics (JSON values)."""
        raise NotImplementedError

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        """The networks' passes for one item (of a fit: for one sample that it sees), from which an estimate
        counts what it costs; none (an empty sequence) where no network is asked; None where it cannot be
        said. Neither torch nor weights are needed."""
        return None

    def resources(self) -> str:
        """'gpu' when the work belongs on an accelerator, else 'cpu'."""
        return "gpu"


@dataclass(frozen=True)
class PlannedShard:
    shard: Shard
    digest: str
    path: str | None
    """Name in the store; None for virtual stages."""


@dataclass(frozen=True)
class NodePlan:
    """One node with everything decided: family digest and shards."""

    name: str
    stage: Stage
    family: str
    inputs: tuple[str, ...]
    shards: tuple[PlannedShard, ...]
    revisions: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[Call, ...] | None = None
    """:meth:`Stage.calls`."""

    @cached_property
    def items(self) -> int:
        return sum(p.shard.items for p in self.shards)

    def as_input(self) -> Input:
        """This node's fitted artefact as an input of a shard."""
        return Input(self.name, self.shards[0].digest)


def plan_node(name: str, stage: Stage, inputs: Mapping[str, NodePlan], store: Store) -> NodePlan:
    """Decide digests and store names of every shard of one node."""
    revisions = stage.revisions()
    identity = {**stage.identity(), "revisions": revisions} if revisions else stage.identity()
    family = family_digest(stage.kind, stage.version, identity, [p.family for p in inputs.values()])
    planned, shards = [], stage.plan(inputs)
    label = stage.label()
    for shard in shards:
        digest = shard_digest(family, shard)
        if not stage.stored:
            path = None
        elif stage.fit_stage:
            path = store.fit_path(stage.kind, label, digest)
        else:
            path = store.shard_path(stage.kind, label, family, shard.key, digest)
        planned.append(PlannedShard(shard, digest, path))
    keys = [p.shard.key for p in planned]
    assert len(set(keys)) == len(keys), f"{name} planned two shards of one key"
    calls = None
    with suppress(DiffadaptError):  # weights that are not there are another check's
        calls = stage.calls(inputs)
    calls = None if calls is None else tuple(calls)
    return NodePlan(name, stage, family, tuple(inputs), tuple(planned), revisions, calls)


def one_to_one(parent: NodePlan, extra: Sequence[NodePlan] = ()) -> list[Shard]:
    """A shard for each shard of ``parent``, with the fitted artefacts ``extra`` as further inputs."""
    also = tuple(node.as_input() for node in extra)
    return [
        Shard(p.shard.key, {"group": p.shard.params["group"]} if "group" in p.shard.params else {},
              (Input(parent.name, p.digest), *also), p.shard.items)
        for p in parent.shards
    ]  # fmt: skip


def whole(inputs: Mapping[str, NodePlan], key: str = "all") -> list[Shard]:
    """The single shard of a fit stage that reads everything of ``inputs``."""
    every = tuple(Input(name, p.digest) for name, node in inputs.items() for p in node.shards)
    items = sum(node.items for node in inputs.values() if not node.stage.fit_stage)
    return [Shard(key, {}, every, items)]
