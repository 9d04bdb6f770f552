"""Weights & Biases: one run of its project ``diffadapt`` for each run and one for each of its fits, grouped
by the run, of a sweep by the sweep.

Needs the package ``wandb``; WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT and the like come from the environment;
without WANDB_DIR its files lie with the run's logs. What is interrupted and goes on is written to the W&B run
that it had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffadapt.core.identity import digest
from diffadapt.train.trackers.base import Tracker, demand_package

if TYPE_CHECKING:
    import numpy as np

    from diffadapt.core.record import Score


class WeightsAndBiases(Tracker):
    """Numbers by step, pictures as images, settings as its config, scores in the summary as
    ``<metric>/<method>/<target>``. A run is written when it is over, in one piece."""

    package = "wandb"

    def start(self) -> None:
        demand_package(self.package)
        self._open: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        image = wandb.Image  # pyright: ignore[reportAttributeAccessIssue]
        self._run.log({name: image(picture) for name, picture in pictures.items()}, step=step)

    def scores(self, scores: Sequence[Score]) -> None:
        self.summary({f"{s.metric}/{s.method}/{s.group}": s.value for s in scores})

    def summary(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.summary[name] = value

    def ended(self, state: str, parameters: Mapping[str, Any]) -> None:
        self._run.config.update({**parameters, "state": state}, allow_val_change=True)

    def close(self) -> None:
        if self._open is not None:
            self._open.finish()

    @property
    def _run(self) -> Any:
        """The W&B run, opened with the first thing that is written to it."""
        if self._open is None:
            import wandb  # pyright: ignore[reportMissingImports]

            folder = os.environ.get("WANDB_DIR") or self.folder
            os.makedirs(folder, exist_ok=True)
            # Without the package pyright takes this file for it.
            self._open = wandb.init(  # pyright: ignore[reportAttributeAccessIssue]
                project=os.environ.get("WANDB_PROJECT", "diffadapt"),
                group=self.path[0],
                job_type="fit" if self.node else "trial" if self.parent else "run",
                name="/".join(self.path),
                id=digest(list(self.path) if self.parent else [self.run, self.node], 16),
                resume="allow",
                reinit="create_new",
                dir=folder,
                settings={"console": "off", "silent": True},
            )
        return self._open
