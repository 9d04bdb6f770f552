"""Label-free validators of finished predictions: which model would have been chosen without target labels
(Adapt Anything's tables)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.core.stage import FitJob, NodePlan, Stage, whole

NAMES = ("entropy", "im", "bnm", "corrc", "snd", "mano", "classami", "ensv")
"""Validators that stored logits are enough for."""
FILE = "validators.json"


@dataclass(frozen=True)
class Validate(Stage):
    """Inputs: prediction nodes (logits of one target). Writes validators.json and returns its content as
    metrics:

    ``nodes``: node -> validator -> score; ``ensv``: node -> agreement with the mean of all the given nodes,
    over the images that all of them have; ``directions``: validator -> 'higher'; ``images``: node -> count;
    ``notes``: validator -> a remark. Labels in the rows are not read.
    """

    names: tuple[str, ...] = NAMES
    classes: int = 0
    """Number of classes; 0: as many as the logits have."""

    kind = "validators"
    fit_stage = True

    def label(self) -> str:
        return "label-free"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        for name in self.names:
            if name not in NAMES:
                raise RecipeError(
                    f"The validator {name!r} cannot be computed from stored logits.{suggest(name, NAMES)}"
                    f" Possible are: {', '.join(NAMES)}."
                )
        # The file names the nodes, so their names are part of what is made.
        return [replace(shard, params={"nodes": list(inputs)}) for shard in whole(inputs)]

    def resources(self) -> str:
        return "cpu"

    def fit(self, job: FitJob) -> dict[str, Any]:
        import json
        from pathlib import Path

        result = self._scores(_predictions(job))
        if job.reporter.rank == 0:
            text = json.dumps(result, indent=1, sort_keys=True)
            (Path(job.output) / FILE).write_text(text + "\n", encoding="utf-8")
        return result

    def _scores(self, nodes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        import numpy as np

        from diffadapt.metrics import validators

        scores: dict[str, dict[str, float]] = {}
        for node, by_key in nodes.items():
            logits = np.stack(list(by_key.values()))
            if self.classes and logits.shape[1] != self.classes:
                raise DataError(
                    f"The predictions of {node} have {logits.shape[1]} classes, and the target has"
                    f" {self.classes}; evaluate a model of the target's classes."
                )
            scores[node] = validators.of_stored(self.names, logits)
        result: dict[str, Any] = {
            "nodes": scores, "ensv": {}, "directions": dict.fromkeys(self.names, "higher"),
            "images": {node: len(by_key) for node, by_key in nodes.items()}, "notes": {},
        }  # fmt: skip
        if "classami" in self.names:
            result["notes"]["classami"] = "Clusters are of logits: the models' features are not stored."
        if "ensv" in self.names:
            common = sorted(set.intersection(*(set(by_key) for by_key in nodes.values())))
            if common:
                agreement = validators.ensv(
                    np.stack([[by_key[k] for k in common] for by_key in nodes.values()])
                )
                result["ensv"] = dict(zip(nodes, agreement.tolist(), strict=True))
                for node, value in result["ensv"].items():
                    scores[node]["ensv"] = value
            result["notes"]["ensv"] = (
                f"Agreement with the mean of {len(nodes)} predictions on the {len(common)} images that all of"
                " them have."
            )
        return result


def _predictions(job: FitJob) -> dict[str, dict[str, Any]]:
    """Node -> key -> float32 logits, in the order of the inputs."""
    from diffadapt.core.record import predictions_by_key

    parts: dict[str, list[Any]] = {}
    for file in job.every_input():
        if not file.fitted:
            parts.setdefault(file.node, []).append(job.read(file))
    nodes = {
        node: {key: logits for key, (_, logits) in predictions_by_key(rows).items()}
        for node, rows in parts.items()
    }
    empty = [node for node, by_key in nodes.items() if not by_key]
    if empty or not nodes:
        raise DataError(
            f"There are no predictions of {', '.join(empty) or 'any model'} to validate: every image of the"
            " target failed."
        )
    return nodes
