"""Where one training runs and who looks on; what is trained, and how, is said elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from diffadapt.compute.distributed import same_buffers
from diffadapt.compute.sync_batch_norm import separate
from diffadapt.core.errors import RecipeError
from diffadapt.train.candidates import Chooser, Forward
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import Reporter
from diffadapt.train.step_batches import Share
from diffadapt.train.watch import Watcher, without_watched


@dataclass(frozen=True)
class TrainingRun:
    """One run of a training on one rank."""

    reporter: Reporter
    checkpoints: Checkpoints | None = None
    """Where it resumes from and saves to; None: no resume."""
    readers: int = 0
    """Threads or processes that prepare the next batch meanwhile; 0: none."""
    until: int | None = None
    """Finished steps after which it pauses with a checkpoint; the result is what it is then."""
    on_step: Callable[[int, dict[str, float]], None] | None = None
    """Called on every rank with the finished steps and their scalars, to which it may add."""
    chooser: Chooser | None = None
    """Keeps the weights of another step than the last."""
    watcher: Watcher | None = None
    """Scores the target's predictions after every epoch."""

    @property
    def share(self) -> Share:
        """This rank's part of a batch."""
        return Share(self.reporter.rank, self.reporter.world_size, self.readers)

    def demand_share(self, batch_size: int, name: str) -> None:
        """RecipeError where the workers cannot share a batch of ``batch_size`` evenly; ``name`` is its
        setting."""
        if batch_size % self.reporter.world_size:
            raise RecipeError(
                f"{name} is {batch_size}, which {self.reporter.world_size} workers cannot share evenly: use"
                " a multiple."
            )

    def observed(
        self, model: nn.Module, evaluating: Callable[[], AbstractContextManager[Any]], forward: Forward
    ) -> TrainingRun:
        """This run with an ``on_step`` that shows ``model`` to the chooser and the watcher when they want to
        see it, ``evaluating()`` meanwhile. ``forward(x)`` gives (logits, features)."""

        def after_step(finished: int, scalars: dict[str, float]) -> None:
            if self.chooser is not None and finished in self.chooser.steps:
                with evaluating():
                    self.chooser.offer(
                        finished,
                        forward,
                        lambda: {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
                    )
            if self.watcher is not None and self.watcher.due(finished):
                with evaluating():
                    scalars.update(self.watcher.after(finished, forward))
            if self.on_step is not None:
                self.on_step(finished, scalars)

        return replace(self, on_step=after_step)

    def conclude(self, net: nn.Module, scalars: dict[str, float], model: nn.Module | None = None) -> dict:
        """Leave ``net`` in evaluation mode with rank 0's running averages, and ``model`` (default: ``net``)
        with the chosen weights; the last step's ``scalars`` with what was chosen (``selection``)."""
        result: dict[str, Any] = without_watched(scalars)
        same_buffers(net)
        separate(net).eval()
        if self.chooser is not None:
            state, result["selection"] = self.chooser.choose()
            if state is not None:
                (net if model is None else model).load_state_dict(state)
        return result
