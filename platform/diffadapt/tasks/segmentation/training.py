"""Model adaptation of ZoDi (section 3.3) and its ablations: a segmenter on source and transferred images,
through the one training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.compute.precision import autocast
from diffadapt.compute.sync_batch_norm import synchronise
from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.inputs import normalise
from diffadapt.tasks.classification.adaptation import evaluating
from diffadapt.tasks.segmentation.batches import (
    PairedScenes,
    SceneSet,
    SegmentBatches,
    pair,
    steps_per_epoch,
)
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.tasks.segmentation.losses import SegmentBatch, method_of, pair_losses
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.run import TrainingRun


class PairNetwork(nn.Module):
    """A segmenter whose forward pass is one step's losses, so that a wrapper for several workers sees both
    images of a pair in one pass."""

    def __init__(self, net: nn.Module, method: str, training: SegmentTraining):
        super().__init__()
        self.net, self.method, self.training_config = net, method, training

    def forward(self, batch: SegmentBatch) -> dict[str, torch.Tensor]:
        return pair_losses(self.net, batch, self.method, self.training_config)


def fit_segmenter(
    source: SceneSet,
    transferred: SceneSet | None,
    net: nn.Module,
    training: SegmentTraining,
    method: str,
    run: TrainingRun,
    *,
    inputs: SegmenterConfig,
) -> dict[str, Any]:
    """Train ``net`` in place by ``method`` and leave it in evaluation mode; goes on from the newest
    checkpoint.

    Both sets hold scenes of one size; those of ``source`` have annotations of class numbers and IGNORED.
    Pairs are found by key; ``transferred`` is not needed by source_only. ``inputs`` says how an image is
    normalised.

    Every step reports the losses, ``lr`` and ``grad_norm``. Returns the last step's with ``steps``,
    ``resumed_from``, ``epochs``, ``images`` (of the source), ``pairs``, ``left_out`` (counts by reason) and
    ``selection``. Raises DataError for sets that cannot be trained on, RecipeError for a batch that the
    workers cannot share, TrainingError on NaN.
    """
    kind = method_of(method)
    if kind.transferred and transferred is None:
        raise RecipeError(
            f"The method {method!r} trains on transferred images, but there are none: give them, or train"
            " source_only."
        )
    transferred = transferred if kind.transferred else None
    for what, scenes in (("source", source), ("transferred", transferred)):
        if scenes is not None and not len(scenes):
            raise DataError(f"There are no readable {what} scenes to train on.")
    pairs, reporter = pair(source, transferred), run.reporter
    _demand_shares(training, inputs, run)
    epoch = steps_per_epoch(len(pairs), training.batch_size)
    net.to(reporter.device)
    module = PairNetwork(net, method, training)
    if training.sync_batch_norm and reporter.world_size > 1:
        synchronise(net)

    def loss_fn(wrapped: nn.Module, batch: SegmentBatch, step: int) -> dict[str, torch.Tensor]:
        x, other, labels = (part.to(reporter.device, non_blocking=True) for part in batch)
        return wrapped(SegmentBatch(normalise(x, inputs), normalise(other, inputs), labels))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(reporter.device, training.precision):
            return net(normalise(x.to(reporter.device), inputs))

    how = Optimisation(
        make_optimizer(net, training),
        lambda step: poly(training, step // epoch),
        training.epochs * epoch,
        precision=training.precision,
        clip_norm=training.clip_norm,
        seed=training.seed,
        checkpoint_every=training.checkpoint_every,
    )
    with SegmentBatches(PairedScenes(source, transferred, pairs), training, kind, run.share) as batches:
        observed = run.observed(net, lambda: evaluating(net), forward)
        result = run_loop(module, loss_fn, batches, how, observed)
    result = run.conclude(net, result)
    return {
        **result,
        "epochs": training.epochs,
        "images": len(source),
        "pairs": len(pairs) if kind.transferred else 0,
        "left_out": pairs.left_out,
    }


def poly(training: SegmentTraining, epoch: int) -> float:
    """The rate of ``epoch`` (from 0): lr (1 - epoch / epochs) ** power."""
    return training.lr * (1 - epoch / training.epochs) ** training.power


def make_optimizer(net: Any, training: Any) -> torch.optim.Optimizer:
    """SGD or AdamW over what is trained of a segmenter's or detector's backbone and head; the head's rate is
    ``head_lr`` times the backbone's."""
    groups = []
    for name, parameters, scale in (
        ("backbone", net.backbone_parameters(), 1.0),
        ("head", net.head_parameters(), training.head_lr),
    ):
        trained = [p for p in parameters if p.requires_grad]
        if trained:
            groups.append({"params": trained, "lr_scale": scale, "name": name})
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        groups, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )


def label_problem(annotation: np.ndarray, classes: int) -> str:
    """What is wrong with a label map, in a sentence; empty if it holds class numbers 0..classes-1 and IGNORED
    alone."""
    found = np.unique(annotation)
    wrong = found[(found >= classes) & (found != IGNORED)]
    if not len(wrong):
        return ""
    return (
        f"its label map holds the class number {int(wrong[0])}, but there are {classes} classes"
        f" (0..{classes - 1}, {IGNORED} for void): check the class table"
    )


def _demand_shares(training: SegmentTraining, inputs: SegmenterConfig, run: TrainingRun) -> None:
    run.demand_share(training.batch_size, "training.batch_size")
    workers = run.reporter.world_size
    if (
        training.batch_size // workers == 1
        and workers > 1
        and inputs.pools_image
        and not training.sync_batch_norm
    ):
        raise RecipeError(
            f"training.batch_size {training.batch_size} over {workers} workers leaves one pair to each, but"
            " the batch normalisation behind DeepLabv3+'s image pooling needs two: raise it, use fewer"
            " workers, or set training.sync_batch_norm."
        )
