"""Pictures of ZoDi for the report: a contact sheet of the transfer, panels of label maps, the confusion
matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob, NodePlan, PlannedShard, Stage
from diffadapt.data.scenes.classes import ClassTable

SHARDS = 8
"""Shards of a node that pictures are chosen from at most, evenly spread."""


@dataclass(frozen=True)
class SceneFigures(Stage):
    """Inputs, in any order, are found by the node names below (an empty name leaves its picture out); further
    ones are the decisions of quality.

    Writes transfers.png, panels.png and confusion.png, as far as there is something to show, and
    figures.json. Metrics: ``pictures``.
    """

    classes: ClassTable = ClassTable()
    source: str = ""
    transferred: str = ""
    target: str = ""
    predictions: tuple[tuple[str, str], ...] = ()
    """(title of the method, node of its label maps on the target): the first is the source-only one, the last
    the method itself."""
    accepted: int = 6
    refused: int = 4
    """Entries of the contact sheet at most."""
    panels: int = 6
    """Target images that are shown."""

    kind = "figures"
    fit_stage = True
    trains = False

    def label(self) -> str:
        return "scenes"

    def identity(self) -> dict[str, Any]:
        return to_dict(self, identity_only=True)

    def resources(self) -> str:
        return "cpu"

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The predictions of the panels: the first and the last."""
        return tuple(dict.fromkeys((self.predictions[0], self.predictions[-1]))) if self.predictions else ()

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        """One shard that reads a few shards of images, and all counts of the last method."""
        chosen: dict[str, Sequence[PlannedShard]] = {}
        for name in (self.transferred, self.target):
            if name in inputs:
                chosen[name] = evenly(inputs[name].shards, SHARDS)
        read = {i.digest for p in chosen.get(self.transferred, ()) for i in p.shard.inputs}
        if self.source in inputs:
            chosen[self.source] = [p for p in inputs[self.source].shards if p.digest in read]
        targets = {p.digest for p in chosen.get(self.target, ())}
        last = self.predictions[-1][1] if self.predictions else ""
        for _, name in self.shown:
            if name in inputs:
                chosen[name] = [
                    p
                    for p in inputs[name].shards
                    if name == last or any(i.digest in targets for i in p.shard.inputs)
                ]
        for name, node in inputs.items():
            if node.stage.fit_stage:
                chosen[name] = node.shards
        every = tuple(Input(name, p.digest) for name in inputs for p in chosen.get(name, ()))
        return [Shard("all", {}, every, len(every))]

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.tasks.segmentation.figure_makers import make_figures

        return make_figures(self, job)


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spread, the first among them."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
