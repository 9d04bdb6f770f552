"""Stage 2 of Adapt Anything (section 3, intra-domain transfer): semi-supervised learning on the target alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.methods.ssl.base import SslBatch, SslMethod
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.loop import run_loop
from diffadapt.train.progress import Pass, Progress
from diffadapt.train.reporter import Reporter
from diffadapt.train.views import Views


class Predictor(nn.Module):
    """What a method's losses are given: ``net(x)`` -> logits (B, K), in float32 under mixed precision; ``net.state``: its buffers."""

    def __init__(self, model: nn.Module, state: nn.Module | None):
        super().__init__()
        self.model, self.state = model, state if state is not None else nn.Module()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class SslNetwork(nn.Module):
    """The method's losses as a forward pass, so that DistributedDataParallel sees every use of a weight."""

    def __init__(self, model: nn.Module, method: SslMethod, classes: int, unlabelled: int):
        super().__init__()
        self.method, self.net = method, Predictor(model, method.build(classes, unlabelled) if unlabelled else None)

    def forward(self, batch: SslBatch, progress: Progress) -> dict[str, torch.Tensor]:
        if self.method.uses_unlabelled and not len(batch.index):
            loss = nn.functional.cross_entropy(self.net(batch.x), batch.y)
            return {"loss": loss, "labelled": loss.detach()}
        return self.method.losses(self.net, batch, progress)


def fit_ssl(
    target: Views, confident: np.ndarray, pseudo_labels: np.ndarray, unconfident: np.ndarray, model: nn.Module, classes: int,
    config: Any, reporter: Reporter, checkpoints: Checkpoints | None, chooser: Any = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train ``model`` (anything that maps views to logits (B, classes)) in place by ``config.chosen``; it ends in evaluation mode.

    ``confident`` and ``unconfident`` are indices of ``target``; ``pseudo_labels`` int64, one for each confident index.
    ``target.labels`` are never read. The result are the averaged weights where the method has an EMA, of the last step or of
    the step that ``chooser`` (train/candidates.py) names. Goes on from the newest checkpoint; with batch norm each worker uses
    its own part's statistics, and a method may be coupled further (``batch_coupled``).

    Returns the last step's scalars with ``steps``, ``resumed_from``, ``confident``, ``unconfident``, ``selection`` (a
    dictionary, where there is a chooser) and ``warnings``. Raises DataError when no image is confident or a pseudo-label is
    no class, RecipeError when the batch does not divide over the workers, TrainingError on NaN.
    """
    method = config.chosen
    _demand(confident, pseudo_labels, classes, config.batch_size, reporter.world_size)
    model.to(reporter.device)
    network = SslNetwork(model, method, classes, len(unconfident)).to(reporter.device)
    head = classifier_of(model)
    batches = SslBatches(target, confident, pseudo_labels, unconfident, method, config.batch_size, config.seed, reporter.rank, reporter.world_size, reporter.device)
    total = config.epochs * config.steps_per_epoch
    ema = Ema(network, method.ema) if method.ema else None
    lr = config.lr if config.lr is not None else method.lr

    def progress(step: int, name: str = "update") -> Progress:
        return Progress(step, total, config.steps_per_epoch, name)

    def after(finished: int, scalars: dict[str, float]) -> None:
        if chooser is not None and finished in chooser.steps:
            _offer(chooser, finished, network, ema)
        if on_step is not None:
            on_step(finished, scalars)

    result = run_loop(
        module=network, loss_fn=lambda net, batch, step, current: net(batch, progress(step, current.name)), batch_fn=batches,
        optimizer=make_optimizer(network, head, method), lr_at=lambda step: method.lr_at(progress(step)) * _ratio(lr, method.lr),
        total_steps=total, reporter=reporter, checkpoints=checkpoints, ema=ema, precision=config.precision, seed=config.seed,
        checkpoint_every=config.checkpoint_every, on_step=after, passes=method.passes() or (Pass(),),
    )  # fmt: skip
    if ema is not None:
        ema.copy_to(network)
    kept: dict[str, Any] = dict(result)
    if chooser is not None:
        state, kept["selection"] = chooser.choose()
        if state is not None:
            model.load_state_dict(state)
    model.eval()
    return {**kept, "confident": len(confident), "unconfident": len(unconfident), "warnings": _warnings(method, len(unconfident))}


def _warnings(method: SslMethod, unconfident: int) -> list[str]:
    if unconfident or not method.uses_unlabelled:
        return []
    return ["Every image of the target is confident, so stage 2 learnt from pseudo-labels alone: lower split.fraction or raise split.threshold."]


class SslBatches:
    """``batches(step, micro)``: this rank's part of the batch of a step, a function of (seed, step, rank) alone.

    Both sets are streams of shuffled epochs, one after the other without a gap; a set smaller than the batch comes several
    times in it. The seeds of the views depend on the place in the stream, not on the number of workers.
    """

    def __init__(
        self, views: Views, confident: np.ndarray, pseudo_labels: np.ndarray, unconfident: np.ndarray, method: SslMethod,
        batch_size: int, seed: int, rank: int = 0, world_size: int = 1, device: str | torch.device = "cpu",
    ):  # fmt: skip
        self.views, self.method, self.seed, self.device = views, method, seed, torch.device(device)
        self.confident, self.unconfident = np.asarray(confident, np.int64), np.asarray(unconfident, np.int64)
        self.pseudo_labels = torch.as_tensor(np.asarray(pseudo_labels, np.int64))
        self.size, self.rank = batch_size // world_size, rank
        self.world_size = world_size

    def __call__(self, step: int, micro: int = 0) -> SslBatch:
        m = self.method
        places = self._places(step, self.size)
        chosen = stream(places, len(self.confident), self.seed, "confident")
        x = self._view(self.confident[chosen], "weak", places, "labelled")
        y = self.pseudo_labels[chosen].to(self.device)
        if not (m.uses_unlabelled and len(self.unconfident)):
            return SslBatch(x, y, (), (), torch.zeros(0, dtype=torch.int64, device=self.device))
        places = self._places(step, self.size * m.mu)
        chosen = stream(places, len(self.unconfident), self.seed, "unconfident")
        items = self.unconfident[chosen]
        weak = tuple(self._view(items, "weak", places, f"weak{i}") for i in range(m.weak_views))
        strong = tuple(self._view(items, "strong", places, f"strong{i}") for i in range(m.strong_views))
        return SslBatch(x, y, weak, strong, torch.from_numpy(chosen).to(self.device))

    def _places(self, step: int, size: int) -> np.ndarray:
        """Positions of this rank's ``size`` items in the stream."""
        start = (step * self.world_size + self.rank) * size
        return np.arange(start, start + size)

    def _view(self, items: np.ndarray, kind: str, places: np.ndarray, role: str) -> torch.Tensor:
        return self.views.get(items, kind, [_seed(self.seed, role, int(p)) for p in places]).to(self.device, non_blocking=True)


def stream(places: Iterable[int], count: int, seed: int, name: str) -> np.ndarray:
    """int64 items 0..count-1 at ``places`` of an endless stream of shuffled epochs."""
    orders: dict[int, np.ndarray] = {}
    found = []
    for place in places:
        epoch, within = divmod(int(place), count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng(_seed(seed, name, epoch)).permutation(count)
        found.append(orders[epoch][within])
    return np.asarray(found, np.int64)


def classifier_of(model: nn.Module) -> nn.Module:
    """The part of ``model`` behind its features: timm's classifier, or the whole of a bare head."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else model
    return nn.ModuleList(found) if isinstance(found, (tuple, list)) else found


def make_optimizer(network: SslNetwork, head: nn.Module, method: SslMethod) -> torch.optim.Optimizer:
    """SGD; the head at the method's rate, the rest at ``backbone_lr`` times it."""
    fast = {id(p) for p in head.parameters()}
    named: Sequence[tuple[str, list, float]] = (
        ("backbone", [p for p in network.parameters() if id(p) not in fast], method.backbone_lr),
        ("head", [p for p in network.parameters() if id(p) in fast], 1.0),
    )
    groups = [{"name": name, "params": params, "lr_scale": scale} for name, params, scale in named if params]
    return torch.optim.SGD(groups, lr=method.lr, momentum=method.momentum, weight_decay=method.weight_decay, nesterov=method.nesterov and method.momentum > 0)


def _offer(chooser: Any, step: int, network: SslNetwork, ema: Ema | None) -> None:
    """Offer the weights that would be the result if training ended here."""
    own = {k: v.detach().clone() for k, v in network.state_dict().items()}
    if ema is not None:
        ema.copy_to(network)
    network.eval()
    model = network.net.model
    try:
        chooser.offer(step, lambda x: with_features(model, x), lambda: {k: v.detach().cpu().clone() for k, v in model.state_dict().items()})
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
        raise DataError("No image of the target is confident enough for stage 2: lower split.threshold, or use split.rule top.")
    if len(confident) != len(labels):
        raise DataError(f"There are {len(confident)} confident images but {len(labels)} pseudo-labels.")
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise DataError(f"The pseudo-labels run from {np.min(labels)} to {np.max(labels)}, but there are classes 0..{classes - 1}.")
    if batch_size % workers:
        raise RecipeError(f"A batch of {batch_size} images cannot be shared evenly by {workers} workers: make ssl.batch_size a multiple of it.")


def _ratio(lr: float, own: float) -> float:
    return lr / own if own else 1.0


def _seed(*what: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big") >> 1
