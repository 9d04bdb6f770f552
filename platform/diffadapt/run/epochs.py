"""The objective after each epoch of a trial, for a scheduler that compares trials of the same age."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from diffadapt.core.errors import LostError
from diffadapt.core.foreign import parse
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.runs import Run
from diffadapt.core.stage import Stage
from diffadapt.run.progress import NodeProgress, Progress

OnEpoch = Callable[[int, float], None]
"""(epoch of the whole trial from 1, objective): may raise to end the trial."""
FILE = "epochs.json"
OBJECTIVE, EPOCH = "objective", "objective_epoch"
"""Scalars that a fit with ``select.watch`` reports after each epoch: the score, and the epoch of this fit
from 1."""
AGE, RESULT = "age", "result"
"""What a trial tells its driver besides OBJECTIVE: the epochs of the whole trial so far; at its end its
result as JSON."""


class TrainingStage(Protocol):
    """What a fit stage that trains epoch by epoch has besides a Stage's own."""

    config: Any
    """Settings of the training, ``epochs`` and ``steps_per_epoch`` among them."""


def trained(stage: Stage) -> TrainingStage:
    """``stage``, of which the caller knows that it trains epoch by epoch."""
    return cast(TrainingStage, stage)


def watched_epochs(pipeline: Pipeline) -> dict[str, int]:
    """Node -> epochs of the fits that report the objective after each epoch."""
    return {
        n.name: trained(n.stage).config.epochs
        for n in pipeline.nodes
        if n.stage.fit_stage and getattr(getattr(n.stage, "select", None), "watch", "")
    }


class Epochs:
    """The objective by epoch of one trial, kept in its folder, so that a trial which goes on after an
    interruption has them all.

    An epoch's number counts the epochs of the trial's finished fits, made now or found in the store, and
    those of the open fit. ``on_epoch`` sees each but the very last one: nothing is saved by stopping there.
    Values of another batch size do not count.
    """

    def __init__(self, place: Run, pipeline: Pipeline, adjusted: Mapping[str, Any], on_epoch: OnEpoch):
        self.place, self.adjusted, self.on_epoch = place, dict(adjusted), on_epoch
        self.of_fit = watched_epochs(pipeline)
        known, epochs = read_epochs(place)
        self.by_number = epochs if known == self.adjusted else {}

    def add(self, node: str, epoch: int, value: float, nodes: Mapping[str, NodeProgress]) -> None:
        """The objective after ``epoch`` epochs of the fit ``node``; ``nodes`` tell which fits are
        finished."""
        finished = (n for n in self.of_fit if n != node and n in nodes and nodes[n].done + nodes[n].hits)
        number = sum(self.of_fit[n] for n in finished) + epoch
        self.by_number[number] = value
        self.place.write(FILE, json.dumps({"adjusted": self.adjusted, "epochs": self.by_number}).encode())
        if number < sum(self.of_fit.values()):
            self.on_epoch(number, value)

    def values(self) -> list[float]:
        return [self.by_number[n] for n in sorted(self.by_number)]


def read_epochs(place: Run) -> tuple[dict[str, Any], dict[int, float]]:
    """(adjusted fields, epoch -> objective) that a trial's folder holds; empty when there are none."""
    try:
        value = parse(place.read(FILE))
        return dict(value["adjusted"]), {int(n): float(v) for n, v in value["epochs"].items()}
    except (LostError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}


class Silent(Progress):
    """Counts, and prints nothing."""

    estimates = False

    def show(self, name: str, force: bool = False) -> None:
        pass

    def say(self, sentence: str, kind: str = "") -> None:
        pass


class Watched(Silent):
    """Notes the scalars OBJECTIVE and EPOCH that fits report."""

    def __init__(self, inner: Progress, epochs: Epochs):
        super().__init__(inner.nodes)
        self.epochs = epochs

    def fit(self, name: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        super().fit(name, step, total, scalars)
        if OBJECTIVE in scalars and EPOCH in scalars:
            self.epochs.add(name, int(scalars[EPOCH]), float(scalars[OBJECTIVE]), self.nodes)
