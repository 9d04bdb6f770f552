"""Which epoch of a segmentation training is kept: the best mean IoU on the source's test images, or (an upper
bound that says so) on the target.

Candidates, their scores and the best one's weights lie in storage as those of adaptation do
(train/candidates.py), so that a killed training goes on without computing one again and ends in the same
choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from diffadapt.compute.distributed import rank, world_size
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.metrics.segmentation import confusion, mean_iou
from diffadapt.models.segmentation.inputs import stacked
from diffadapt.tasks.segmentation.batches import SceneSet
from diffadapt.train.candidates import Forward

RULES = {"best_source": "the source's test images", "oracle": "the target"}


@dataclass(frozen=True, eq=False)
class SceneJudge:
    """Looks at the mean IoU on ``scenes``, which have annotations and one size; each rank predicts its part
    of them. Raises RecipeError for an unknown rule, DataError when no scene is there."""

    rule: str
    scenes: SceneSet
    classes: int
    device: str | torch.device
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise RecipeError(
                f"There is no selection rule {self.rule!r} for segmentation; known are last,"
                f" {', '.join(RULES)}."
            )
        if not len(self.scenes):
            raise DataError(
                f"The selection rule {self.rule!r} needs labelled scenes of {RULES[self.rule]}, and none is"
                " readable."
            )

    @property
    def compares(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.scenes)

    def evidence(self, forward: Forward) -> dict[str, np.ndarray]:
        """``confusion`` int64 (K+1, K+1) over all scenes; a single NaN where an output is not finite."""
        side = self.classes + 1
        found = torch.zeros(side * side + 1, dtype=torch.int64)
        for start in range(0, len(self.scenes), self.batch_size)[rank() :: world_size()]:
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
    def _counted(self, start: int, forward: Forward) -> np.ndarray | None:
        stop = min(start + self.batch_size, len(self.scenes))
        scenes = [self.scenes.get(i) for i in range(start, stop)]
        logits = forward(stacked([image for image, _ in scenes]))[0]
        if not bool(torch.isfinite(logits).all()):
            return None
        predicted = logits.argmax(1).cpu().numpy()
        truth = [annotation for _, annotation in scenes]
        counted = [confusion(t, p, self.classes) for t, p in zip(truth, predicted, strict=True)]
        return np.sum(counted, axis=0)

    def score(self, found: dict[str, np.ndarray]) -> float:
        matrix = found["confusion"]
        return mean_iou(matrix) if matrix.ndim == 2 else math.nan
