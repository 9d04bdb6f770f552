"""What a tracker is told, and how several are told at once.

A tracker is one file, found by its name here or in a folder that DIFFADAPT_TRACKERS names, and chosen with
``--execution.trackers tensorboard <name>``. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.core.discover import Seam, check_name
from diffadapt.core.errors import DiffadaptError, ResourceError
from diffadapt.core.redact import redact

if TYPE_CHECKING:
    import numpy as np

    from diffadapt.core.record import Score

log = logging.getLogger(__name__)


@dataclass
class Tracker:
    """One place that is told of one fit while it trains or, where ``node`` is empty, of a run or a sweep when
    it begins and when it is done.

    It lives in the process of the fit's first worker, or in the one that ends the run; every function may be
    left out. DiffadaptError ends the fit with its sentence; after any other error the tracker is told nothing
    more, and the fit goes on.
    """

    run: str
    """The run's name in its root; of a sweep's trial: the trial's."""
    node: str
    """The fit, such as uda or classifier; empty: the run itself."""
    folder: str
    """A folder of this machine, which need not exist; its files end up in tensorboard/<node> of the run."""
    parent: str = ""
    """Of a sweep's trial: the sweep's name."""

    package: ClassVar[str] = ""
    """The Python package that it needs, if any; looked for before a run begins."""

    @property
    def path(self) -> tuple[str, ...]:
        """What names this one among all of a root, from the outside in: sweep, run, fit. A run that goes on
        has the path that it had."""
        return tuple(part for part in (self.parent, self.run, self.node) if part)

    def start(self) -> None:
        """Called once, before the first of the others."""

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """A run or sweep begins, or goes on. ``parameters``: the recipe's name, its digest, and its settings
        by their dotted names."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after ``step`` finished steps of the fit, averaged over its workers."""

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures by name, uint8 (height, width, 3): samples of a fit after ``step`` steps, or a run's
        figures (step 0)."""

    def scores(self, scores: Sequence[Score]) -> None:
        """The rows of a run's scores.parquet."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Single numbers of a run: of a sweep's trial its objective and its accuracy."""

    def ended(self, state: str, parameters: Mapping[str, Any]) -> None:
        """A run or sweep is over: finished, failed or interrupted. ``parameters`` as for :meth:`begin`."""

    def close(self) -> None:
        """Called once, after the last of the others, if it was started."""


TRACKERS = Seam("tracker", "diffadapt.train.trackers", "DIFFADAPT_TRACKERS", Tracker)


def check_trackers(names: Sequence[str]) -> None:
    """RecipeError, with the nearest name, for one that is no tracker's."""
    for name in names:
        check_name("tracker", name, TRACKERS.names())


def demand_trackers(names: Sequence[str]) -> None:
    """As :func:`check_trackers`, and ResourceError for one whose package lacks: before hours of work."""
    check_trackers(names)
    for name in names:
        demand_package(TRACKERS.load(name).package)


def demand_package(package: str) -> None:
    """ResourceError where a package that a tracker needs is not installed."""
    try:
        found = not package or importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec has been put in its place
        found = True
    if not found:
        raise ResourceError(
            f"The tracker {package} needs the package {package}: pip install {package}, or leave"
            f" {package} out of --execution.trackers."
        )


_given_up: set[tuple[str, str, str]] = set()
"""Trackers that failed in this process, by name, sweep and run: what does not answer is not asked by every
fit."""


class Trackers:
    """Several trackers that are told the same, started with the first thing that they are told. RecipeError
    for a name that is none."""

    def __init__(self, names: Sequence[str], run: str, node: str, folder: str, parent: str = ""):
        self._place = parent, run
        self._waiting = {
            name: TRACKERS.load(name)(run, node, folder, parent)
            for name in names
            if (name, *self._place) not in _given_up
        }
        self._started: dict[str, Tracker] = {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tell("scalars", step, values)

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        self._tell("figures", step, pictures)

    def scores(self, scores: Sequence[Score]) -> None:
        self._tell("scores", scores)

    def begin(self, parameters: Mapping[str, Any]) -> None:
        self._tell("begin", parameters)

    def summary(self, values: Mapping[str, float]) -> None:
        self._tell("summary", values)

    def ended(self, state: str, parameters: Mapping[str, Any]) -> None:
        self._tell("ended", state, parameters)

    def close(self) -> None:
        for name in list(self._started):
            self._call(name, "close")
        self._started.clear()

    def _tell(self, what: str, *content: object) -> None:
        for name in list(self._waiting):
            self._started[name] = self._waiting.pop(name)
            self._call(name, "start")
        for name in list(self._started):
            self._call(name, what, *content)

    def _call(self, name: str, what: str, *content: object) -> None:
        try:
            getattr(self._started[name], what)(*content)
        except Exception as error:
            del self._started[name]
            if isinstance(error, DiffadaptError):
                raise
            _given_up.add((name, *self._place))
            log.warning(
                "The tracker %s is told nothing more of %s: %s failed (%s: %s).",
                name,
                self._place[1],
                what,
                type(error).__name__,
                redact(str(error)),
            )
