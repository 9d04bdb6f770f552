"""Tent (Wang et al. 2021): adapt normalisation layers online by minimising the entropy of the predictions."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from diffadapt.core.errors import RecipeError, TrainingError
from diffadapt.core.identity import item_seed
from diffadapt.methods.config import TentConfig

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm)


class Tent:
    """One adapting copy of a classifier; the model that is passed in stays as it is.

    Batch norm uses the statistics of the present batch and forgets its running ones; the affine parameters of
    batch, layer and group norm learn, nothing else does. Dropout and stochastic depth stay off. Raises
    RecipeError if there are no such parameters.
    """

    def __init__(self, model: nn.Module, config: TentConfig):
        self.config = config
        self.model = copy.deepcopy(model).eval()
        self.parameters = configure(self.model)
        self._start = [p.detach().clone() for p in self.parameters]
        self.reset()

    def reset(self) -> None:
        """Forget all adaptation: the source model's parameters and a new optimiser."""
        with torch.no_grad():
            for parameter, start in zip(self.parameters, self._start, strict=True):
                parameter.copy_(start)
        if self.config.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters, lr=self.config.lr, momentum=self.config.momentum
            )
        else:
            self.optimizer = torch.optim.Adam(self.parameters, lr=self.config.lr)

    def step(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, C, H, W) -> logits (B, K) from before the (last) update, then adapt on them.

        Raises TrainingError if a logit or the gradient is NaN or infinite, before the weights are touched.
        """
        for _ in range(self.config.steps):
            with torch.enable_grad():
                logits = self.model(images)
                loss = entropy(logits).mean()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            if not torch.isfinite(logits).all() or not torch.isfinite(norm):
                raise TrainingError(
                    "Tent's entropy or its gradient became NaN or infinite; lower the rate or use larger"
                    " batches."
                )
            self.optimizer.step()
        return logits.detach()

    def forward_stream(self, batches: Iterable[torch.Tensor]) -> np.ndarray:
        """Batches of normalised images, in order -> float32 logits (N, K) in the same order; adapts from
        batch to batch.

        Does not reset: call :meth:`reset` where a new stream begins.
        """
        parts = [self.step(batch).float().cpu().numpy() for batch in batches]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def configure(model: nn.Module) -> list[nn.Parameter]:
    """Freeze all but the affine parameters of norm layers, switch batch norm to batch statistics; the
    learnable parameters."""
    model.requires_grad_(False)
    result: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            # Without running averages batch norm takes the batch's statistics in evaluation mode too.
            module.track_running_stats = False
            module.running_mean = module.running_var = None
        elif not isinstance(module, OTHER_NORMS):
            continue
        result += [p for p in (module.weight, module.bias) if isinstance(p, nn.Parameter)]
    if not result:
        raise RecipeError(
            "Tent adapts the affine parameters of batch, layer or group norm, and this classifier has none "
            "(batch norm may have been folded into the convolutions): choose another method or model."
        )
    for parameter in result:
        parameter.requires_grad_()
    return result


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """(B, K) logits -> entropy in nats (B,) of their softmax."""
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def stream_order(
    items: Sequence[tuple[str, int]], mixed_classes: bool, mixed_types: bool, seed: int = 0
) -> list[np.ndarray]:
    """The order in which images arrive: a list of streams, each an int64 array of indices into ``items``.

    ``items`` are (corruption type, label). Mixed types: one stream of everything; else one stream a type, in
    order of first appearance, between which a method starts afresh. Mixed classes: shuffled; else class after
    class, shuffled within one (and types mixed within it). A type's order depends on the seed and the type
    alone.
    """
    kinds = np.array([kind for kind, _ in items], dtype=object)
    labels = np.array([label for _, label in items], dtype=np.int64)
    groups = [""] if mixed_types else list(dict.fromkeys(kinds))
    streams = []
    for group in groups:
        members = np.arange(len(items)) if mixed_types else np.flatnonzero(kinds == group)
        shuffled = np.random.default_rng(item_seed(seed, "stream", group, "tent")).permutation(members)
        if not mixed_classes:
            shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
        streams.append(shuffled.astype(np.int64))
    return streams if len(items) else []
