"""Which epoch of a segmentation training is kept: the best mean IoU on the source's test images, or (an upper
bound that says so) on the target.

Candidates, their scores and the best one's weights lie in storage as those of adaptation do
(train/candidates.py), so that a killed training goes on without computing one again and ends in the same
choice.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist

from diffadapt.compute.distributed import rank, world_size
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.metrics.segmentation import confusion, mean_iou
from diffadapt.models.segmentation.inputs import stacked
from diffadapt.tasks.segmentation.batches import SceneSet
from diffadapt.train.candidates import Chooser, Forward

RULES = {"best_source": "the source's test images", "oracle": "the target"}


class SegmentChooser(Chooser):
    """Keeps candidates under ``<location>/candidates`` and names the one with the best mean IoU on
    ``scenes``; ties go to the later step.

    ``scenes`` have annotations and one size. Every rank of a process group makes one and calls the same
    methods; each predicts its part of the scenes. Raises RecipeError for an unknown rule, DataError when no
    pixel of ``scenes`` is labelled.
    """

    def __init__(
        self,
        rule: str,
        location: str,
        steps: Sequence[int],
        scenes: SceneSet,
        classes: int,
        device: str | torch.device,
        batch_size: int = 4,
    ):
        if rule not in RULES:
            raise RecipeError(
                f"There is no selection rule {rule!r} for segmentation; known are last, {', '.join(RULES)}."
            )
        if not len(scenes):
            raise DataError(
                f"The selection rule {rule!r} needs labelled scenes of {RULES[rule]}, and none is readable."
            )
        self.rule, self.needs, self.steps = rule, "scores", sorted(set(steps))
        self.target, self.classes = scenes, classes  # type: ignore[assignment]
        self.batch_size, self.device = batch_size, torch.device(device)
        self._folder = posixpath.join(str(location), "candidates")

    def _evidence(self, forward: Forward) -> dict[str, np.ndarray]:
        """``confusion`` int64 (K+1, K+1) over all scenes; a single NaN where an output is not finite."""
        side = self.classes + 1
        found = torch.zeros(side * side + 1, dtype=torch.int64)
        for start in range(0, len(self.target), self.batch_size)[rank() :: world_size()]:
            counted = self._counted(start, forward)
            if counted is None:
                found[-1] += 1
            else:
                found[:-1] += torch.from_numpy(counted.ravel())
        if world_size() > 1:
            found = found.to(self.device)
            dist.all_reduce(found)
        *counts, broken = found.cpu().numpy()
        return {"confusion": np.array(math.nan) if broken else np.asarray(counts).reshape(side, side)}

    @torch.no_grad()
    def _counted(self, start: int, forward: Callable) -> np.ndarray | None:
        scenes = [self.target.get(i) for i in range(start, min(start + self.batch_size, len(self.target)))]  # type: ignore[attr-defined]
        logits = forward(stacked([image for image, _ in scenes]))[0]
        if not bool(torch.isfinite(logits).all()):
            return None
        predicted = logits.argmax(1).cpu().numpy()
        return np.sum(
            [
                confusion(annotation, p, self.classes)
                for (_, annotation), p in zip(scenes, predicted, strict=True)
            ],
            axis=0,
        )

    def _score(self, found: dict[str, np.ndarray]) -> float:
        matrix = found["confusion"]
        return mean_iou(matrix) if matrix.ndim == 2 else math.nan
