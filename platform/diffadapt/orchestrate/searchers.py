"""Where a sweep's next trial comes from: a list that is known beforehand, or Optuna, which learns from the results so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.trials import Trial


class Source(Protocol):
    """Hands out trials and is told how they ended."""

    def next(self) -> Trial | None:
        """The next trial; None when there is none now (see :attr:`exhausted`)."""
        ...

    def tell(self, result: TrialResult) -> None: ...

    @property
    def exhausted(self) -> bool:
        """Whether no trial will come any more, whatever is told."""
        ...


class Listed:
    """The trials of a grid or of random draws, in their order."""

    def __init__(self, trials: Sequence[Trial]):
        self._left = deque(trials)

    def next(self) -> Trial | None:
        return self._left.popleft() if self._left else None

    def tell(self, result: TrialResult) -> None:
        return None

    @property
    def exhausted(self) -> bool:
        return not self._left
