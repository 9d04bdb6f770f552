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
    """top1, or class_mean (mean of the classes' accuracies, as VisDA is scored); of label maps miou,
    miou_source, miou_estimated; of boxes map, map50."""


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

    def result(self) -> tuple[MethodRow, ...]:
        """The rows of the recipe's own result, one a seed and transfer: those called as the last one that is
        no control, in the first row's metric."""
        names = [r.name for r in self.rows if not r.control]
        return (
            tuple(
                r
                for r in self.rows
                if r.name == names[-1] and not r.control and r.metric == self.rows[0].metric
            )
            if names
            else ()
        )

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
        plans: dict[str, NodePlan] = {}
        for node in self.nodes:
            plans[node.name] = plan_node(node.name, node.stage, {i: plans[i] for i in node.inputs}, store)
        return plans


def ancestors(nodes: Sequence[Node], name: str) -> set[str]:
    """Names of all nodes that ``name`` depends on."""
    by_name = {n.name: n for n in nodes}
    found: set[str] = set()
    todo = list(by_name[name].inputs)
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo.extend(by_name[current].inputs)
    return found
