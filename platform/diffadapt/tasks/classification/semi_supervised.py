"""Stage 2 of Adapt Anything (section 3, intra-domain transfer): semi-supervised learning on the target
alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.compute.distributed import same_buffers
from diffadapt.compute.precision import full
from diffadapt.compute.progress import Pass, Progress
from diffadapt.compute.sync_batch_norm import synchronise
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.methods.ssl.base import SslBatch, SslMethod
from diffadapt.tasks.classification.ssl_batches import PseudoLabels, SslBatches
from diffadapt.train.ema import Ema
from diffadapt.train.fit import too_few
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.run import TrainingRun
from diffadapt.train.views import Views, finished


class Predictor(nn.Module):
    """What a method's losses are given: ``net(x)`` -> logits (B, K), in float32 under mixed precision;
    ``net.state``: its buffers."""

    def __init__(self, model: nn.Module, state: nn.Module | None):
        super().__init__()
        self.model, self.state = model, nn.Module() if state is None else state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return full(self.model(x))


class SslNetwork(nn.Module):
    """The method's losses as a forward pass, so that DistributedDataParallel sees every use of a weight."""

    def __init__(self, model: nn.Module, method: SslMethod, classes: int, unlabelled: int):
        super().__init__()
        self.method = method
        self.net = Predictor(model, method.build(classes, unlabelled) if unlabelled else None)

    def forward(self, batch: SslBatch, progress: Progress) -> dict[str, torch.Tensor]:
        if self.method.uses_unlabelled and not len(batch.index):
            loss = nn.functional.cross_entropy(self.net(batch.x), batch.y)
            return {"loss": loss, "labelled": loss.detach()}
        return self.method.losses(self.net, batch, progress)


def fit_ssl(
    target: Views, split: PseudoLabels, model: nn.Module, classes: int, config: Any, run: TrainingRun
) -> dict[str, Any]:
    """Train ``model`` (anything that maps views to logits (B, classes)) in place by ``config.chosen``; it
    ends in evaluation mode.

    ``target.labels`` are never read. The result are the averaged weights where the method has an EMA, of the
    last step or of the step that the chooser names. Goes on from the newest checkpoint. Batch norm uses each
    worker's own part's statistics without ``config.sync_batch_norm``; a method may be coupled further
    (``batch_coupled``).

    Returns the last step's scalars with ``steps``, ``resumed_from``, ``confident``, ``unconfident``,
    ``selection`` (a dictionary, where there is a chooser) and ``warnings``. Raises DataError when no image is
    confident or a pseudo-label is no class, RecipeError when the batch does not divide over the workers,
    TrainingError on NaN.
    """
    method = method_of(config)
    reporter = run.reporter
    _demand(split, classes, config.batch_size, reporter.world_size)
    network = SslNetwork(model, method, classes, len(split.unconfident)).to(reporter.device)
    if config.sync_batch_norm and reporter.world_size > 1:
        synchronise(network)
    total = config.epochs * config.steps_per_epoch
    ema = Ema(network, method.ema) if method.ema else None

    def progress(step: int, name: str = "update") -> Progress:
        return Progress(step, total, config.steps_per_epoch, name)

    def loss_fn(module: nn.Module, batch: SslBatch, step: int, current: Pass) -> dict[str, torch.Tensor]:
        return module(_moved(batch, reporter.device, target), progress(step, current.name))

    how = Optimisation(
        make_optimizer(network),
        lambda step: method.lr_at(progress(step)),
        total,
        ema=ema,
        precision=config.precision,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        passes=method.passes(),
    )
    with SslBatches(target, split, method, config, run.share) as batches:
        observed = run.observed(model, lambda: as_result(network, ema), lambda x: with_features(model, x))
        result = run_loop(network, loss_fn, batches, how, observed)
    if ema is not None:
        ema.copy_to(network)
    confident, unconfident = len(split.confident), len(split.unconfident)
    return {
        **run.conclude(network, result, model),
        "confident": confident,
        "unconfident": unconfident,
        "warnings": _warnings(method, confident, unconfident, config.batch_size),
    }


def method_of(config: Any) -> SslMethod:
    """The method of an SslConfig with the recipe's rate. Raises RecipeError for an unknown method."""
    method: SslMethod = config.chosen
    return method if config.lr is None else replace(method, lr=config.lr)


def _moved(batch: SslBatch, device: torch.device, target: Views) -> SslBatch:
    def move(x: torch.Tensor) -> torch.Tensor:
        return x.to(device, non_blocking=True)

    def view(x: torch.Tensor) -> torch.Tensor:
        return finished(target, move(x))

    return SslBatch(
        view(batch.x),
        move(batch.y),
        tuple(map(view, batch.weak)),
        tuple(map(view, batch.strong)),
        move(batch.index),
    )


def _warnings(method: SslMethod, confident: int, unconfident: int, batch_size: int) -> list[str]:
    said = []
    if method.uses_unlabelled and not unconfident:
        said.append(
            "Every image of the target is confident, so stage 2 learnt from pseudo-labels alone: lower"
            " split.fraction or raise split.threshold."
        )
    return said + too_few("The target has", confident, "confident image", batch_size, " of stage 2")


def classifier_of(model: nn.Module) -> nn.Module:
    """The part of ``model`` behind its features: timm's classifier, or the whole of a bare head."""
    result = model.get_classifier() if hasattr(model, "get_classifier") else model
    return nn.ModuleList(result) if isinstance(result, (tuple, list)) else result


def make_optimizer(network: SslNetwork) -> torch.optim.Optimizer:
    """SGD; the head at the method's rate, the rest at ``backbone_lr`` times it."""
    method = network.method
    fast = {id(p) for p in classifier_of(network.net.model).parameters()}
    groups = []
    for name, head, scale in (("backbone", False, method.backbone_lr), ("head", True, 1.0)):
        if params := [p for p in network.parameters() if (id(p) in fast) == head]:
            groups.append({"name": name, "params": params, "lr_scale": scale})
    return torch.optim.SGD(
        groups,
        lr=method.lr,
        momentum=method.momentum,
        weight_decay=method.weight_decay,
        nesterov=method.nesterov and method.momentum > 0,
    )


@contextlib.contextmanager
def as_result(network: SslNetwork, ema: Ema | None) -> Iterator[nn.Module]:
    """The model with the weights that would be the result if training ended here, in evaluation mode;
    training goes on afterwards as if nothing had been."""
    same_buffers(network)
    own = {k: v.detach().clone() for k, v in network.state_dict().items()}
    if ema is not None:
        ema.copy_to(network)
    network.eval()
    try:
        yield network.net.model
    finally:
        network.load_state_dict(own)
        network.train()


def with_features(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits (B, K), what the last Linear layer reads (B, D)), without gradient."""
    seen: list[torch.Tensor] = []
    last = [m for m in classifier_of(model).modules() if isinstance(m, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        handle.remove()
    return logits, seen[-1]


def _demand(split: PseudoLabels, classes: int, batch_size: int, workers: int) -> None:
    confident, labels, _ = split
    if not len(confident):
        raise DataError(
            "No image of the target is confident enough for stage 2: lower split.threshold, or use split.rule"
            " top."
        )
    if len(confident) != len(labels):
        raise DataError(f"There are {len(confident)} confident images but {len(labels)} pseudo-labels.")
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise DataError(
            f"The pseudo-labels run from {np.min(labels)} to {np.max(labels)}, but there are classes"
            f" 0..{classes - 1}."
        )
    if batch_size % workers:
        raise RecipeError(
            f"A batch of {batch_size} images cannot be shared evenly by {workers} workers: make"
            " ssl.batch_size a multiple of it."
        )
