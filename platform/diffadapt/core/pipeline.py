"""Pipelines: named stages joined by their inputs. A recipe returns one; planning turns it into shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffadapt.core.stage import NodePlan, Stage, plan_node
from diffadapt.core.store import Store


@dataclass(frozen=True)
class Node:
    """One use of a stage. ``inputs`` are names of earlier nodes."""

    name: str
    stage: Stage
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Role:
    """What a row means beside the other rows of its run. The recipe that makes the row states it; tables and
    reports read it and nothing else."""

    kind: str = ""
    """SOURCE, RESULT, PART, SAME_IMAGES, or a word that the report of the row's system knows; empty: nothing
    is stated."""
    partner: str = ""
    """The name of the row that this one is read beside: for a method what it builds on, for a control the
    method that it is a control of. Empty: a control is read beside the run's result."""
    otherwise: str = ""
    """What it means when the method is not above its partner or, of a control, when the partner is not above
    the control."""
    published: str = ""
    """The method's name in published tables; empty: none has it."""


SOURCE, RESULT, PART, SAME_IMAGES = "source_only", "result", "part", "same_images"
"""Kinds of role. A method: trained on the source alone, which differences are taken to; the system's own. A
control: a part of the method by itself, read also beside what the method builds on; another method on the
images of its partner, which counts few."""


@dataclass(frozen=True)
class MethodRow:
    """One row of the score table: the sum of the probabilities of its members' predictions.

    ``members`` name prediction nodes whose rows pair by key (SDA equation 5); one member is a single-model
    row.
    """

    name: str
    members: tuple[str, ...]
    note: str = ""
    control: bool = False
    images_of: str = ""
    """Count only the images that this prediction node has too (a like-for-like row beside a method run on
    fewer images)."""
    group: str = ""
    """The group of all its scores, e.g. a transfer such as 'amazon-webcam'; empty: as the keys say."""
    seed: int | None = None
    """The training's seed where a recipe has several; None: the recipe's."""
    selection: str = "last"
    """How the epoch was chosen: 'last', a label-free validator, or 'oracle' (on target labels)."""
    metric: str = "top1"
    """The name of a :class:`diffadapt.core.metric.Metric`: top1 or class_mean of classes; of label maps miou,
    miou_source, miou_estimated; of boxes map, map_source."""
    role: Role = Role()


@dataclass(frozen=True)
class Pipeline:
    """All work of a recipe, in dependency order, and the score rows that are views over it."""

    nodes: tuple[Node, ...]
    rows: tuple[MethodRow, ...] = ()
    class_names: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """What later commands need by role -> node name: 'target', 'figures', 'model' (the adapted classifier),
    'predictions' (its logits on the target), 'validators'; for SDA also 'classifier', 'finetuned',
    'projected', ..."""
    system: str = ""
    """The folder under systems/ whose report tells of its runs; empty: the report's common words."""
    planned: Mapping[str, NodePlan] | None = field(default=None, repr=False, compare=False)
    """Its plan, where that was made a moment ago for the same store: :meth:`plan` gives it again."""

    def result(self) -> tuple[MethodRow, ...]:
        """The rows of the recipe's own result, one a seed and transfer: those called as the last one that is
        no control, in the first row's metric."""
        main = [r for r in self.rows if not r.control]
        return tuple(r for r in main if (r.name, r.metric) == (main[-1].name, self.rows[0].metric))

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            assert node.name not in seen, f"two nodes are called {node.name}"
            missing = set(node.inputs) - seen
            assert not missing, f"{node.name} needs {missing}, which come later or nowhere"
            seen.add(node.name)

    def plan(self, store: Store) -> dict[str, NodePlan]:
        """Every node's shards with digests and store names; reads data listings and weight revisions, writes
        nothing."""
        if self.planned is not None:
            return dict(self.planned)
        plans: dict[str, NodePlan] = {}
        for node in self.nodes:
            plans[node.name] = plan_node(node.name, node.stage, {i: plans[i] for i in node.inputs}, store)
        return plans


class Builder:
    """Collects what a recipe's pipeline is made of; ``system`` is the folder under systems/ that it is of."""

    system = ""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.rows: list[MethodRow] = []
        self.outputs: dict[str, str] = {}

    def add(self, name: str, stage: Stage, *inputs: str, output: str = "") -> str:
        """A node, unless there is one of that name; returns its name. ``output``: what later commands know it
        as."""
        node = self.nodes.setdefault(name, Node(name, stage, inputs))
        assert node.inputs == inputs, f"two nodes are called {name}"
        if output:
            self.outputs[output] = name
        return name

    def pipeline(self, class_names: tuple[str, ...] = ()) -> Pipeline:
        """The pipeline of all that was added."""
        return Pipeline(tuple(self.nodes.values()), tuple(self.rows), class_names, self.outputs, self.system)


def ancestors(nodes: Sequence[Node], name: str) -> set[str]:
    """Names of all nodes that ``name`` depends on."""
    by_name = {n.name: n for n in nodes}
    result: set[str] = set()
    todo = list(by_name[name].inputs)
    while todo:
        current = todo.pop()
        if current not in result:
            result.add(current)
            todo.extend(by_name[current].inputs)
    return result
