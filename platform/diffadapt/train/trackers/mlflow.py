"""MLflow: one MLflow run for each run, its fits as children of it, in the experiment ``diffadapt``; of a
sweep one for the sweep, with its trials as children.

Needs the package ``mlflow``; MLFLOW_TRACKING_URI and what else its client reads come from the environment.
What is interrupted and goes on is written to the MLflow run that it had.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffadapt.train.trackers.base import Tracker, demand_package

if TYPE_CHECKING:
    import numpy as np

    from diffadapt.core.record import Score

EXPERIMENT = "diffadapt"
TAG, PARENT = "diffadapt_fit", "mlflow.parentRunId"
LONGEST = 500
"""Characters of a parameter's value that older servers take."""
MOST = 100
"""Parameters that a server takes at a time."""
STATES = {"finished": "FINISHED", "failed": "FAILED"}


class MLflow(Tracker):
    """Metrics by step, pictures as artefacts, scores as metrics ``<metric>/<method>/<target>``."""

    package = "mlflow"

    def start(self) -> None:
        demand_package(self.package)
        # By default a server that is not there is asked for minutes, by every fit.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # Without the package pyright finds none, or takes this file for it.
        from mlflow import MlflowClient  # pyright: ignore

        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        self._id = ""
        for depth in range(1, len(self.path) + 1):
            self._id = self._found(self.path[:depth], self._id)

    def begin(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # pyright: ignore

        known = self._client.get_run(self._id).data.params  # they cannot be given twice
        new = [Param(_key(k), str(v)[:LONGEST]) for k, v in parameters.items() if _key(k) not in known]
        for first in range(0, len(new), MOST):
            self._client.log_batch(self._id, params=new[first : first + MOST])
        self._client.update_run(self._id, "RUNNING")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics(values, step)

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self._client.log_image(self._id, picture, f"figures/{name}-{step:07d}.png")

    def scores(self, scores: Sequence[Score]) -> None:
        self.summary({f"{s.metric}/{s.method}/{s.group}": s.value for s in scores})

    def summary(self, values: Mapping[str, float]) -> None:
        known = self._client.get_run(
            self._id
        ).data.metrics  # a run that is served from the store says them again
        self._metrics({k: v for k, v in values.items() if known.get(_key(k)) != v}, 0)

    def ended(self, state: str, parameters: Mapping[str, Any]) -> None:
        self._client.set_terminated(self._id, STATES.get(state, "KILLED"))

    def close(self) -> None:
        if self.node:
            self._client.set_terminated(self._id)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # pyright: ignore

        now = int(time.time() * 1000)
        if values:
            self._client.log_batch(
                self._id, metrics=[Metric(_key(name), value, now, step) for name, value in values.items()]
            )

    def _found(self, path: Sequence[str], parent: str) -> str:
        """The MLflow run of ``path``: the one that it had, else a new one, below ``parent``."""
        name = "/".join(path)
        earlier = self._client.search_runs(
            [self._experiment],
            f"tags.{TAG} = '{name}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        if earlier:
            return earlier[0].info.run_id
        tags = {TAG: name, **({PARENT: parent} if parent else {})}
        return self._client.create_run(self._experiment, run_name=path[-1], tags=tags).info.run_id


def _key(name: str) -> str:
    """``name`` with what MLflow does not allow in a metric's name as an underscore."""
    return re.sub(r"[^\w\-./ ]", "_", name)
