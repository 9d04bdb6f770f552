"""MLflow: one MLflow run for each fit and one for the run itself, in the experiment ``diffadapt``.

Needs the package ``mlflow``; MLFLOW_TRACKING_URI and what else its client reads come from the environment. An
interrupted fit that goes on is written to the MLflow run that it had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffadapt.core.errors import ResourceError
from diffadapt.train.trackers.base import Tracker

if TYPE_CHECKING:
    import numpy as np

    from diffadapt.core.record import Score

EXPERIMENT = "diffadapt"
TAG = "diffadapt_fit"


class MLflow(Tracker):
    """Metrics by step, pictures as artefacts, scores as metrics ``<metric>/<method>/<target>``."""

    def start(self) -> None:
        try:
            # Without the package pyright finds none, or takes this file for it.
            from mlflow import MlflowClient  # pyright: ignore
        except ImportError:
            raise ResourceError(
                "The tracker mlflow needs the package mlflow: pip install mlflow, or leave mlflow out of"
                " --execution.trackers."
            ) from None
        self._client = MlflowClient()
        name = f"{self.run}/{self.node}".rstrip("/")
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        earlier = self._client.search_runs([experiment], f"tags.{TAG} = '{name}'", max_results=1)
        run = earlier[0] if earlier else self._client.create_run(experiment, run_name=name, tags={TAG: name})
        self._id = run.info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, _key(name), value, step=step)

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self._client.log_image(self._id, picture, f"figures/{name}-{step:07d}.png")

    def scores(self, scores: Sequence[Score]) -> None:
        for s in scores:
            self._client.log_metric(self._id, _key(f"{s.metric}/{s.method}/{s.group}"), s.value)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _key(name: str) -> str:
    """``name`` with what MLflow does not allow in a metric's name as an underscore."""
    return re.sub(r"[^\w\-./ ]", "_", name)
