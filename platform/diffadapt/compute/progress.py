"""Where a training is: the step, the epoch, the pass. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

SHARPNESS = "sharpness"
"""Name of the pass that ascends the task loss for SDAT."""


@dataclass(frozen=True)
class Pass:
    """One forward, backward and update within a step; most methods have one, MCD has six.

    ``groups`` are the names of the parameter groups that the optimiser moves (None: all). ``ascend`` > 0
    makes it the first half of SAM: instead of an update, the weights of the groups move by
    ascend * g / ||g|| and come back after the next pass's gradient is known (Foret et al. 2021, equation 2).
    """

    name: str = "update"
    groups: tuple[str, ...] | None = None
    ascend: float = 0.0


@dataclass(frozen=True)
class Progress:
    """``step`` counts optimiser steps from 0; ``name`` is that of the present pass."""

    step: int
    total_steps: int
    steps_per_epoch: int
    name: str = "update"
    seed: int = 0
    """The training's."""

    @property
    def epoch(self) -> int:
        return self.step // max(1, self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        return -(-self.total_steps // max(1, self.steps_per_epoch))

    @property
    def fraction(self) -> float:
        """Finished part of the training, 0..1."""
        return self.step / max(1, self.total_steps)
