"""What a run holds of source images that its models were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from diffadapt.core.record import predictions_by_key
from diffadapt.core.runs import Run
from diffadapt.stages.roles import HELD_OUT

LOGITS = ("logits", "head-logits")
"""Kinds of the nodes that apply a trained model as it is."""
TRAINED = ("uda", "ssl")
"""Kinds of the fits of adaptation."""
Predictions = Mapping[str, tuple[int | None, np.ndarray]]


def model_of(nodes: Mapping[str, Any], node: str) -> str:
    """The trained model that a prediction node applies as it is; empty where it has none, or adapts it
    first."""
    inputs = nodes[node]["inputs"]
    return inputs[1] if nodes[node]["kind"] in LOGITS and len(inputs) > 1 else ""


def adapted_rows(manifest: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(row, its prediction node, its model) of the rows of one model that adaptation trained; no controls."""
    nodes = manifest["nodes"]
    for row in manifest.get("rows") or ():
        model = model_of(nodes, row["members"][0])
        if len(row["members"]) == 1 and model and nodes[model]["kind"] in TRAINED and not row.get("control"):
            yield row, row["members"][0], model


def held_out_nodes(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Model -> the node of its predictions on the images that its recipe held out of training."""
    return {
        model_of(nodes, name): name
        for name, node in nodes.items()
        if node["kind"] in LOGITS and any(nodes[i]["kind"] == HELD_OUT for i in node["inputs"])
    }


def stored(run: Run) -> Callable[[str], Predictions]:
    """Prediction node of a finished run -> its logits by key."""
    nodes = run.manifest()["nodes"]

    @lru_cache(maxsize=4)
    def load(node: str) -> Predictions:
        return predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[node]["shards"]])

    return load


def logits_of(predictions: Predictions) -> np.ndarray:
    """(N, K), in the order of the predictions."""
    return np.stack([z for _, z in predictions.values()])


def labelled(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(logits (N, K), labels (N,)) of the predictions whose label is known."""
    known = [(label, logits) for label, logits in predictions.values() if label is not None]
    logits = np.stack([z for _, z in known]) if known else np.zeros((0, 0))
    return logits, np.array([label for label, _ in known], np.int64)
