"""Weights & Biases: one run of its project ``diffadapt`` for each fit and one for the run itself.

Needs the package ``wandb``; WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT and the like come from the environment.
An interrupted fit that goes on is written to the W&B run that it had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffadapt.core.errors import ResourceError
from diffadapt.core.identity import digest
from diffadapt.train.trackers.base import Tracker

if TYPE_CHECKING:
    import numpy as np

    from diffadapt.core.record import Score


class WeightsAndBiases(Tracker):
    """Numbers by step, pictures as images, scores in the summary as ``<metric>/<method>/<target>``."""

    def start(self) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ResourceError(
                "The tracker wandb needs the package wandb: pip install wandb, or leave wandb out of"
                " --execution.trackers."
            ) from None
        # Without the package pyright takes this file for it.
        self._image = wandb.Image  # pyright: ignore[reportAttributeAccessIssue]
        self._run = wandb.init(  # pyright: ignore[reportAttributeAccessIssue]
            project=os.environ.get("WANDB_PROJECT", "diffadapt"),
            group=self.run,
            name=f"{self.run}/{self.node}".rstrip("/"),
            id=digest([self.run, self.node], 16),
            resume="allow",
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        self._run.log({name: self._image(picture) for name, picture in pictures.items()}, step=step)

    def scores(self, scores: Sequence[Score]) -> None:
        for s in scores:
            self._run.summary[f"{s.metric}/{s.method}/{s.group}"] = s.value

    def close(self) -> None:
        self._run.finish()
