"""Training of an object detector on source scenes and their transferred images, with the source's boxes, by
the one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.network import DetectionNetwork, Target, total
from diffadapt.models.segmentation.inputs import normalise
from diffadapt.tasks.detection.config import METHODS, DetectionTraining
from diffadapt.tasks.detection.data import Boxes, DetectionBatch, DetectionBatches
from diffadapt.tasks.segmentation.batches import PairedScenes, SceneSet, pair, steps_per_epoch
from diffadapt.tasks.segmentation.losses import similarity_loss
from diffadapt.tasks.segmentation.training import make_optimizer
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.optim import warm_cosine
from diffadapt.train.run import TrainingRun


def fit_detector(
    source: SceneSet,
    transferred: SceneSet | None,
    boxes: Sequence[Boxes],
    net: DetectionNetwork,
    config: DetectorConfig,
    training: DetectionTraining,
    method: str,
    run: TrainingRun,
) -> dict[str, Any]:
    """Train ``net`` in place, going on from the newest checkpoint; it ends in evaluation mode.

    ``source`` and ``transferred`` (None: method source_only) give images of ``config.size``, ``boxes`` the
    objects of every source scene in those pixels. Returns the last step's scalars with ``images`` (trained on
    in an epoch, at most), ``objects``, ``steps``, ``resumed_from`` and ``left_out``. Raises DataError for
    sets that cannot be trained on, RecipeError for an unknown method or a batch that the workers cannot
    share, TrainingError on NaN.
    """
    uses, device = uses_of(method), run.reporter.device
    run.demand_share(training.batch_size, "training.batch_size")
    if not len(source):
        raise DataError("There are no readable source scenes with boxes to train a detector with.")
    assert transferred is not None or not uses[1], "the method needs transferred scenes"
    pairs = pair(source, transferred if uses[1] else None)
    objects = sum(len(boxes[int(i)].labels) for i in pairs.source)
    if not objects:
        raise DataError(
            f"None of the {len(pairs)} training images has an object, so a detector cannot learn anything:"
            " give images with boxes."
        )
    steps = training.epochs * steps_per_epoch(len(pairs), training.batch_size)
    module = PairLosses(net, config, training.similarity if all(uses) else 0.0).to(device)
    warmup = min(training.warmup_steps, steps // 2)
    how = Optimisation(
        make_optimizer(net, training),
        lambda step: warm_cosine(step, training.lr, warmup, steps),
        steps,
        precision=training.precision,
        clip_norm=training.clip_norm,
        seed=training.seed,
        checkpoint_every=training.checkpoint_every,
    )
    scenes = PairedScenes(source, transferred, pairs)
    with DetectionBatches(scenes, boxes, training, uses, run.share) as batches:
        result = run_loop(
            module, lambda wrapped, batch, step: wrapped(moved(batch, device)), batches, how, run
        )
    result = run.conclude(net, result)
    return {**result, "images": len(pairs), "objects": objects, "left_out": pairs.left_out}


class PairLosses(nn.Module):
    """The losses of a batch of pairs: x and x' go through the network one after the other, each with its own
    batch statistics."""

    def __init__(self, net: DetectionNetwork, config: DetectorConfig, similarity: float = 0.0):
        super().__init__()
        self.net, self.config, self.similarity = net, config, similarity
        self.find_unused_parameters = bool(getattr(net, "find_unused_parameters", False))

    def forward(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """``loss``, the sum of ``task_source``, ``task_transferred`` and ``similarity``, as far as the method
        has them."""
        losses: dict[str, Tensor] = {}
        maps = []
        for name, x in (("source", batch.source), ("transferred", batch.transferred)):
            if len(x):
                found, deepest = self.net(normalise(x, self.config), batch.targets)  # type: ignore[arg-type]
                losses[f"task_{name}"] = total(found)
                maps.append(deepest)
        if self.similarity and len(maps) == 2:
            losses["similarity"] = similarity_loss(maps[0], maps[1], self.similarity)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def uses_of(method: str) -> tuple[bool, bool]:
    """Whether a method trains on source images, on transferred ones. Raises RecipeError for an unknown
    one."""
    if method not in METHODS:
        raise RecipeError(
            f"There is no detection method {method!r}.{suggest(method, METHODS)} Known are:"
            f" {', '.join(METHODS)}."
        )
    return method != "transferred_only", method != "source_only"


def moved(batch: DetectionBatch, device: torch.device) -> DetectionBatch:
    """``batch`` on ``device``."""
    targets = [Target(*(t.to(device, non_blocking=True) for t in one)) for one in batch.targets]
    return DetectionBatch(
        batch.source.to(device, non_blocking=True), batch.transferred.to(device, non_blocking=True), targets
    )
