"""Supervised training and fine-tuning of classifiers (SDA section 4.4, Table 7) through the one training
loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.models.classifier import Classifier
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.preprocess import normalise
from diffadapt.tasks.classification.augment import make_augment
from diffadapt.tasks.classification.batches import Batch, Batches, Labelled
from diffadapt.train.config import FitConfig
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.optim import make_optimizer, make_schedule
from diffadapt.train.run import TrainingRun


def fit_classifier(
    model: nn.Module,
    images: Sequence[Any] | np.ndarray,
    config: FitConfig,
    run: TrainingRun,
    *,
    inputs: ClassifierConfig,
    labels: Sequence[int] | np.ndarray | None = None,
) -> dict[str, float]:
    """Train ``model`` in place on all epochs and leave it in evaluation mode; goes on from the newest
    checkpoint.

    ``images`` is a uint8 (N, H, W, C) array with ``labels`` (N,), or anything indexable that gives (uint8 (H,
    W, C), label). ``inputs`` says how an image becomes the network's input. The last, smaller batch of an
    epoch is kept and spread evenly over the workers. With batch norm each worker uses its own part's
    statistics. A model for ``config.drop_path`` > 0 has to be created with it.

    Every step reports ``loss``, ``accuracy`` (a fraction of the training batch), ``lr``, ``grad_norm`` and
    ``images_per_second``. Returns the last step's scalars with ``steps``, ``epochs``, ``images`` and
    ``resumed_from``.
    Raises DataError for labels outside the model's classes, RecipeError for settings that do not fit,
    TrainingError on NaN.
    """
    model, reporter = model.model if isinstance(model, Classifier) else model, run.reporter
    _demand_drop_path(model, config.drop_path)
    pairs = images if labels is None else Labelled(images, labels)
    if labels is not None:
        _demand_labels(np.asarray(labels), int(getattr(model, "num_classes", 0)))
    per_worker = -(-config.batch_size // reporter.world_size)
    accumulate = -(-per_worker // config.micro_batch) if config.micro_batch else 1
    batches = Batches(
        pairs,
        make_augment(config, inputs),
        batch_size=config.batch_size,
        seed=config.seed,
        rank=reporter.rank,
        world_size=reporter.world_size,
        accumulate=accumulate,
        readers=run.readers,
    )
    model.to(reporter.device)

    def loss_fn(module: nn.Module, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        x = batch.images.to(reporter.device, non_blocking=True)
        y = batch.labels.to(reporter.device, non_blocking=True)
        logits = module(normalise(x, inputs) if x.dtype == torch.uint8 else x).float()
        loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        hits = (logits.detach().argmax(1) == y).float().mean()
        return {"loss": loss * batch.weight, "accuracy": hits * batch.weight}

    def count_speed(step: int, scalars: dict[str, float]) -> None:
        scalars["images_per_second"] = batches.size(step - 1) / max(scalars["step_seconds"], 1e-9)
        if run.on_step is not None:
            run.on_step(step, scalars)

    how = Optimisation(
        make_optimizer(model, config),
        make_schedule(config, batches.steps_per_epoch),
        config.epochs * batches.steps_per_epoch,
        precision=config.precision,
        clip_norm=config.clip_norm,
        accumulate=accumulate,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
    )
    result = run_loop(model, loss_fn, batches, how, replace(run, on_step=count_speed))
    model.eval()
    return {**result, "epochs": float(config.epochs), "images": float(len(pairs))}


def _demand_labels(labels: np.ndarray, classes: int) -> None:
    if classes and len(labels) and not (0 <= labels.min() and labels.max() < classes):
        raise DataError(
            f"The training labels run from {labels.min()} to {labels.max()}, but the classifier has classes"
            f" 0..{classes - 1}."
        )


def _demand_drop_path(model: nn.Module, rate: float) -> None:
    built = max((float(getattr(m, "drop_prob", 0.0) or 0.0) for m in model.modules()), default=0.0)
    if abs(built - rate) > 1e-6:
        raise RecipeError(
            f"The recipe asks for drop path {rate}, but the model was created with {built}: "
            "pass drop_path to create_model or load_classifier."
        )
