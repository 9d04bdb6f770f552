"""Stage 1 of Adapt Anything: unsupervised domain adaptation of any method of methods/uda through the one
training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.compute.distributed import gather_shares, same_buffers, share
from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.precision import autocast
from diffadapt.compute.progress import Pass, Progress
from diffadapt.compute.sync_batch_norm import synchronise
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.methods.uda.base import Sizes, UdaMethod
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.pair_batches import PairBatches
from diffadapt.train.run import TrainingRun
from diffadapt.train.views import Views, finished

FROZEN_BOTTLENECK = 256
"""Bottleneck of an adapting method that has none, when the backbone is frozen: something must move the
features."""


def fit_uda(
    source: Views, target: Views, backbone: nn.Module, width: int, classes: int, config: Any, run: TrainingRun
) -> tuple[AdaptationNetwork, dict[str, Any]]:
    """Adapt from ``source`` (labels 0..classes-1) to ``target``, whose labels are not looked at; goes on from
    the newest checkpoint.

    ``backbone`` maps the views' inputs to (B, width); Identity for cached features. ``config`` is a
    UdaConfig. Every step reports the method's losses, ``lr`` and ``grad_norm``.

    Returns the network in evaluation mode and the last step's scalars with ``steps``, ``resumed_from`` and
    ``selection`` (what was chosen and why). Raises DataError for an empty set or labels outside the classes,
    RecipeError for settings that do not fit (SDAT with a method of several passes, a batch that the workers
    cannot share), TrainingError on NaN.
    """
    demand_sets(source, target, classes)
    reporter = run.reporter
    method = method_of(config, frozen=not any(True for _ in backbone.parameters()))
    passes = method.passes_with(config.sdat)
    run.demand_share(config.batch_size, "uda.batch_size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = AdaptationNetwork(backbone, width, classes, method).to(reporter.device)
    net.find_unused_parameters = len(passes) > 1
    sizes, by_pass = Sizes(config.batch_size, len(source), len(target)), not config.steps_per_epoch
    config = counted(config, method, sizes)
    if config.sync_batch_norm and reporter.world_size > 1:
        synchronise(net)
    total = config.epochs * config.steps_per_epoch
    batches = PairBatches(source, target, config, net, run.share)
    reader = Reader(source, target, net, config, reporter.device)
    refreshes = type(method).refresh is not UdaMethod.refresh

    def progress(step: int, name: str = "update") -> Progress:
        return Progress(step, total, config.steps_per_epoch, name, config.seed)

    def idle(step: int) -> bool:
        return step % config.steps_per_epoch >= method.steps_now(net, progress(step), sizes)

    def loss_fn(module: nn.Module, batch: PairBatch, step: int, current: Pass) -> dict[str, torch.Tensor]:
        there = PairBatch(*(x.to(reporter.device, non_blocking=True) for x in batch))
        there = there._replace(x_s=finished(source, there.x_s), x_t=finished(target, there.x_t))
        return module(there, progress(step, current.name))

    def before_step(step: int) -> None:
        if refreshes and step % config.steps_per_epoch == 0:
            with evaluating(net):
                method.refresh(net, reader, progress(step))

    how = Optimisation(
        make_optimizer(net),
        lambda step: method.lr_at(progress(step)),
        total,
        precision=config.precision,
        clip_norm=method.clip_norm,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        passes=passes,
        before_step=before_step,
        idle=idle if by_pass else None,
    )
    with batches:
        observed = run.observed(net, lambda: evaluating(net), reader.forward)
        result = run_loop(net, loss_fn, batches, how, observed)
    return net, run.conclude(net, result)


def counted(config: Any, method: UdaMethod, sizes: Sizes) -> Any:
    """A UdaConfig whose epochs have a number of steps, where they were to be passes over the data."""
    return config if config.steps_per_epoch else replace(config, steps_per_epoch=method.epoch_steps(sizes))


def method_of(config: Any, frozen: bool) -> UdaMethod:
    """The method of a UdaConfig with the recipe's rate; with frozen features an adapting method has at least
    a bottleneck.

    Raises RecipeError for an unknown method, or one that cannot work on frozen features.
    """
    method: UdaMethod = config.chosen
    if config.lr is not None:
        method = replace(method, lr=config.lr)
    if frozen and method.backbone_kind == "vit":
        raise RecipeError(
            f"The method {config.method!r} works inside a vision transformer, so cached features will not do:"
            " set backbone.frozen to false or choose another method."
        )
    if frozen and method.uses_target and not method.bottleneck:
        method = replace(method, bottleneck=FROZEN_BOTTLENECK)
    method.check(config.epochs)
    return method


def make_optimizer(net: AdaptationNetwork) -> torch.optim.Optimizer:
    """SGD over the method's groups; a group may bring its own momentum or weight decay."""
    method = net.method
    return torch.optim.SGD(
        net.parameter_groups(),
        lr=1.0,
        momentum=method.momentum,
        nesterov=method.nesterov and method.momentum > 0,
        weight_decay=method.weight_decay,
    )


def demand_sets(source: Views, target: Views, classes: int) -> None:
    """Raise DataError for an empty set or a source label outside 0..classes-1."""
    for name, views in (("source", source), ("target", target)):
        if not len(views):
            raise DataError(f"There are no readable {name} images to adapt with.")
    low, high = int(np.min(source.labels)), int(np.max(source.labels))
    if low < 0:
        raise DataError(
            f"{int((np.asarray(source.labels) < 0).sum())} of {len(source)} source images have no label: the"
            " source needs one for each, e.g. a sub-folder a class."
        )
    if high >= classes:
        raise DataError(
            f"The source labels run to {high}, but there are {classes} classes (0..{classes - 1})."
        )


class evaluating:
    """The network in evaluation mode, with rank 0's running averages on every rank; training mode again
    afterwards."""

    def __init__(self, net: nn.Module):
        self.net = net

    def __enter__(self) -> None:
        same_buffers(self.net)
        self.net.eval()

    def __exit__(self, *error: object) -> None:
        self.net.train()


class Reader:
    """What a method's ``refresh`` may read: test views of both sets through the present network, and the
    source's labels."""

    def __init__(
        self,
        source: Views,
        target: Views,
        net: AdaptationNetwork,
        config: Any,
        device: torch.device,
        batch: int = 256,
    ):
        self._sets, self._net, self._precision, self._device, self._batch = (
            {"source": source, "target": target},
            net,
            config.precision,
            device,
            batch,
        )
        self.source_labels = np.asarray(source.labels, np.int64)
        """int64 (N,)."""

    def features(self, domain: str) -> np.ndarray:
        """float32 (N, width) of ``domain``, 'source' or 'target', in the set's order; the same on every
        rank."""
        return self._outputs(domain, 1)

    def logits(self, domain: str) -> np.ndarray:
        """float32 (N, classes), likewise."""
        return self._outputs(domain, 0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, features) of inputs (B, ...)."""
        with autocast(self._device, self._precision):
            features = self._net.features(x.to(self._device))
            return self._net.method.predict(self._net, features), features

    @torch.no_grad()
    def _outputs(self, domain: str, which: int) -> np.ndarray:
        views = self._sets[domain]
        mine = share(len(views))
        width = self._net.width if which else self._net.classes
        parts = [torch.zeros((0, width), device=self._device)]
        for start in range(mine.start, mine.stop, self._batch):
            chosen = range(start, min(start + self._batch, mine.stop))
            parts.append(self.forward(views.get(chosen, "test", [0] * len(chosen)))[which].float())
        return gather_shares(torch.cat(parts), len(views)).cpu().numpy()
