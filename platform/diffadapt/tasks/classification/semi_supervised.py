"""Stage 2 of Adapt Anything (section 3, intra-domain transfer): semi-supervised learning on the target
alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.compute.distributed import same_buffers
from diffadapt.compute.precision import full
from diffadapt.compute.progress import Pass, Progress
from diffadapt.compute.sync_batch_norm import separate, synchronise
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.methods.ssl.base import SslBatch, SslMethod
from diffadapt.tasks.classification.ssl_batches import SslBatches
from diffadapt.train.candidates import Chooser
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.loop import run_loop
from diffadapt.train.reporter import Reporter
from diffadapt.train.views import Views
from diffadapt.train.watch import Watcher, without_watched


class Predictor(nn.Module):
    """What a method's losses are given: ``net(x)`` -> logits (B, K), in float32 under mixed precision;
    ``net.state``: its buffers."""

    def __init__(self, model: nn.Module, state: nn.Module | None):
        super().__init__()
        self.model, self.state = model, state if state is not None else nn.Module()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return full(self.model(x))


class SslNetwork(nn.Module):
    """The method's losses as a forward pass, so that DistributedDataParallel sees every use of a weight."""

    def __init__(self, model: nn.Module, method: SslMethod, classes: int, unlabelled: int):
        super().__init__()
        self.method, self.net = (
            method,
            Predictor(model, method.build(classes, unlabelled) if unlabelled else None),
        )

    def forward(self, batch: SslBatch, progress: Progress) -> dict[str, torch.Tensor]:
        if self.method.uses_unlabelled and not len(batch.index):
            loss = nn.functional.cross_entropy(self.net(batch.x), batch.y)
            return {"loss": loss, "labelled": loss.detach()}
        return self.method.losses(self.net, batch, progress)


def fit_ssl(
    target: Views, confident: np.ndarray, pseudo_labels: np.ndarray, unconfident: np.ndarray, model: nn.Module, classes: int,
    config: Any, reporter: Reporter, checkpoints: Checkpoints | None, chooser: Chooser | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None, readers: int = 0,
    watcher: Watcher | None = None, until: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train ``model`` (anything that maps views to logits (B, classes)) in place by ``config.chosen``; it
    ends in evaluation mode.

    ``confident`` and ``unconfident`` are indices of ``target``; ``pseudo_labels`` int64, one for each
    confident index. ``target.labels`` are never read. The result are the averaged weights where the method
    has an EMA, of the last step or of the step that ``chooser`` (train/candidates.py) names. After every
    epoch ``watcher`` (train/watch.py) adds its score of those weights to the scalars. With ``until`` training
    pauses after so many finished steps with a checkpoint, and the result is what it is then. Goes on from the
    newest checkpoint. Batch norm uses each worker's own part's statistics without ``config.sync_batch_norm``;
    a method may be coupled further (``batch_coupled``).

    Returns the last step's scalars with ``steps``, ``resumed_from``, ``confident``, ``unconfident``,
    ``selection`` (a dictionary, where there is a chooser) and ``warnings``. Raises DataError when no image is
    confident or a pseudo-label is no class, RecipeError when the batch does not divide over the workers,
    TrainingError on NaN.
    """
    method = method_of(config)
    _demand(confident, pseudo_labels, classes, config.batch_size, reporter.world_size)
    network = SslNetwork(model, method, classes, len(unconfident)).to(reporter.device)
    if config.sync_batch_norm and reporter.world_size > 1:
        synchronise(network)
    total = config.epochs * config.steps_per_epoch
    ema = Ema(network, method.ema) if method.ema else None

    def progress(step: int, name: str = "update") -> Progress:
        return Progress(step, total, config.steps_per_epoch, name)

    def loss_fn(module: nn.Module, batch: SslBatch, step: int, current: Pass) -> dict[str, torch.Tensor]:
        return module(_moved(batch, reporter.device), progress(step, current.name))

    def after_step(finished: int, scalars: dict[str, float]) -> None:
        if chooser is not None and finished in chooser.steps:
            with as_result(network, ema) as model:
                chooser.offer(
                    finished,
                    lambda x: with_features(model, x),
                    lambda: {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
                )
        if watcher is not None and watcher.due(finished):
            with as_result(network, ema) as model:
                scalars.update(watcher.after(finished, lambda x: with_features(model, x)))
        if on_step is not None:
            on_step(finished, scalars)

    with SslBatches(
        target,
        confident,
        pseudo_labels,
        unconfident,
        method,
        config.batch_size,
        config.seed,
        reporter.rank,
        reporter.world_size,
        readers,
    ) as batches:
        result: dict[str, Any] = run_loop(
            module=network,
            loss_fn=loss_fn,
            batch_fn=batches,
            optimizer=make_optimizer(network),
            lr_at=lambda step: method.lr_at(progress(step)),
            total_steps=total,
            reporter=reporter,
            checkpoints=checkpoints,
            ema=ema,
            precision=config.precision,
            seed=config.seed,
            checkpoint_every=config.checkpoint_every,
            on_step=after_step,
            passes=method.passes(),
            until=until,
        )
    result = without_watched(result)
    if ema is not None:
        ema.copy_to(network)
    same_buffers(network)
    separate(network).eval()
    if chooser is not None:
        state, result["selection"] = chooser.choose()
        if state is not None:
            model.load_state_dict(state)
    return {
        **result,
        "confident": len(confident),
        "unconfident": len(unconfident),
        "warnings": _warnings(method, len(confident), len(unconfident), config.batch_size),
    }


def method_of(config: Any) -> SslMethod:
    """The method of an SslConfig with the recipe's rate. Raises RecipeError for an unknown method."""
    method: SslMethod = config.chosen
    return method if config.lr is None else replace(method, lr=config.lr)


def _moved(batch: SslBatch, device: torch.device) -> SslBatch:
    def move(x: torch.Tensor) -> torch.Tensor:
        return x.to(device, non_blocking=True)

    return SslBatch(
        move(batch.x),
        move(batch.y),
        tuple(map(move, batch.weak)),
        tuple(map(move, batch.strong)),
        move(batch.index),
    )


def _warnings(method: SslMethod, confident: int, unconfident: int, batch_size: int) -> list[str]:
    said = []
    if method.uses_unlabelled and not unconfident:
        said.append(
            "Every image of the target is confident, so stage 2 learnt from pseudo-labels alone: lower"
            " split.fraction or raise split.threshold."
        )
    if confident < batch_size:
        said.append(
            f"The target has {confident} confident image{'' if confident == 1 else 's'}, fewer than a batch"
            f" of {batch_size}, so that every batch of stage 2 holds some of them repeatedly."
        )
    return said


def classifier_of(model: nn.Module) -> nn.Module:
    """The part of ``model`` behind its features: timm's classifier, or the whole of a bare head."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else model
    return nn.ModuleList(found) if isinstance(found, (tuple, list)) else found


def make_optimizer(network: SslNetwork) -> torch.optim.Optimizer:
    """SGD; the head at the method's rate, the rest at ``backbone_lr`` times it."""
    method = network.method
    fast = {id(p) for p in classifier_of(network.net.model).parameters()}
    named: Sequence[tuple[str, list, float]] = (
        ("backbone", [p for p in network.parameters() if id(p) not in fast], method.backbone_lr),
        ("head", [p for p in network.parameters() if id(p) in fast], 1.0),
    )
    groups = [{"name": name, "params": params, "lr_scale": scale} for name, params, scale in named if params]
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


def _demand(confident: np.ndarray, labels: np.ndarray, classes: int, batch_size: int, workers: int) -> None:
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
