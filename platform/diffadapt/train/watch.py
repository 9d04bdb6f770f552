"""A score of the target's predictions after every epoch, for schedulers and curves. It looks on: nothing that
is trained changes."""

from __future__ import annotations

import numpy as np
import torch

from diffadapt.core.errors import DataError, RecipeError, TrainingError
from diffadapt.metrics import validators
from diffadapt.metrics.classification import accuracy
from diffadapt.train.candidates import Forward, predict
from diffadapt.train.views import Views

OBJECTIVE, EPOCH = "objective", "objective_epoch"
"""The scalars: the score (higher is better; 'oracle' in percent), and the epoch of this fit, from 1, after
which it was taken."""


class Watcher:
    """Scores the test views of ``target`` by ``name``: a validator of logits, or 'oracle' (accuracy on
    ``labels`` int (N,), -1 where unknown).

    A validator sees the logarithm of the probabilities, as a trial's objective does. Every rank makes one and
    calls :meth:`after` for the same steps; the ranks share the prediction. Raises RecipeError for another
    name, DataError when 'oracle' finds no label.
    """

    def __init__(
        self,
        name: str,
        target: Views,
        steps_per_epoch: int,
        device: str | torch.device,
        labels: np.ndarray | None = None,
    ):
        known = [n for n, v in validators.VALIDATORS.items() if v.needs == "logits"]
        if name not in (*known, "oracle"):
            raise RecipeError(
                f"There is no score {name!r} that can be watched: known are {', '.join(known)} and oracle."
            )
        if name == "oracle" and (labels is None or not (np.asarray(labels) >= 0).any()):
            raise DataError(
                "select.watch 'oracle' needs target labels, and no target image has one: watch a label-free"
                " score such as im."
            )
        self.name, self.target, self.steps_per_epoch, self.device = (
            name,
            target,
            steps_per_epoch,
            torch.device(device),
        )
        self._labels = np.asarray(labels) if name == "oracle" else None

    def due(self, finished: int) -> bool:
        """Whether an epoch ends with ``finished`` steps."""
        return finished % self.steps_per_epoch == 0

    def after(self, finished: int, forward: Forward) -> dict[str, float]:
        """OBJECTIVE and EPOCH after ``finished`` steps. ``forward(x)`` gives (logits, features) in evaluation
        mode.

        torch's generators are left as they were. Raises TrainingError when the predictions hold NaN or
        infinity.
        """
        epoch = finished // self.steps_per_epoch
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            logits, _ = predict(self.target, np.arange(len(self.target)), forward, self.device)
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"The predictions of the target hold NaN or infinity after epoch {epoch}: lower the learning"
                " rate or use fp32."
            )
        return {OBJECTIVE: self._score(logits), EPOCH: float(epoch)}

    def _score(self, logits: np.ndarray) -> float:
        if self._labels is not None:
            known = self._labels >= 0
            return 100 * accuracy(logits[known].argmax(1), self._labels[known])
        return validators.of_logits(self.name, logits)


def without_watched(scalars: dict) -> dict:
    """``scalars`` without those of a watcher: what a fit records about itself does not depend on who looked
    on."""
    return {k: v for k, v in scalars.items() if k not in (OBJECTIVE, EPOCH)}
