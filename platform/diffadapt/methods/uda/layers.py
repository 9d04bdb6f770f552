"""What several adaptation methods share: gradient reversal, the domain discriminator, mean losses over the
global batch."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.compute.distributed import gather
from diffadapt.compute.precision import full


def reversal(step: int, alpha: float = 1.0, low: float = 0.0, high: float = 1.0, steps: int = 1000) -> float:
    """The coefficient of gradient reversal at ``step``: from ``low`` to ``high`` along a sigmoid (Ganin et
    al. 2016, section 5.2.2; with alpha 1 and 1000 steps as Transfer-Learning-Library's
    WarmStartGradientReverseLayer)."""
    return 2.0 * (high - low) / (1.0 + math.exp(-alpha * step / steps)) - (high - low) + low


def reverse(x: torch.Tensor, coefficient: float) -> torch.Tensor:
    """``x`` (any shape); its gradient is multiplied by -``coefficient``."""
    return _Reverse.apply(x, coefficient)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, coefficient: float) -> torch.Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.coefficient * gradient, None


def discriminator(width: int, hidden: int) -> nn.Sequential:
    """(B, width) features -> (B, 1) logits, positive for the source: Linear-BatchNorm-ReLU twice, then
    Linear."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, 1),
    )  # fmt: skip


def domain_loss(
    logits: torch.Tensor, sources: int, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, accuracy) of a discriminator's ``logits`` (2B, 1), whose first ``sources`` rows are the source,
    with ``weights`` (2B,).

    The mean of the two domains' mean binary cross-entropies, source = 1.
    """
    values = full(logits[:, 0])
    truth = torch.zeros_like(values)
    truth[:sources] = 1
    loss = F.binary_cross_entropy_with_logits(values, truth, weights, reduction="none")
    accuracy = ((values.detach() > 0) == (truth > 0)).to(values.dtype)
    halves = [0.5 * (x[:sources].mean() + x[sources:].mean()) for x in (loss, accuracy)]
    return halves[0], halves[1]


def entropy(p: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Entropy (B,) of probabilities (B, K) in nats; log(p + epsilon), as in Transfer-Learning-Library."""
    return -(p * torch.log(p + epsilon)).sum(1)


def global_mean(x: torch.Tensor) -> torch.Tensor:
    """The mean over the rows of all workers (no gradient)."""
    return gather(x.detach()).mean()


def flat(*modules: nn.Module) -> nn.Sequential:
    """One Sequential of the layers of ``modules``, nested Sequentials opened and Identities dropped."""
    layers: list[nn.Module] = []
    for module in modules:
        layers += (
            list(flat(*module))
            if isinstance(module, nn.Sequential)
            else []
            if isinstance(module, nn.Identity)
            else [module]
        )
    return nn.Sequential(*layers)


class RandomMap(nn.Module):
    """(B, width) features and (B, classes) predictions -> (B, out): product of two fixed Gaussian projections
    (CDAN, equation 6)."""

    of_features: torch.Tensor
    of_predictions: torch.Tensor

    def __init__(self, width: int, classes: int, out: int):
        super().__init__()
        self.register_buffer("of_features", torch.randn(width, out))
        self.register_buffer("of_predictions", torch.randn(classes, out))

    def forward(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return (f @ self.of_features) * (g @ self.of_predictions) / self.of_features.shape[1] ** 0.5


def imbalance(p: torch.Tensor) -> torch.Tensor:
    """-mean_k log(mean_i p_ik + 1e-6) of predictions (B, K) over the global batch: smallest when all classes
    are predicted alike (MCD's entropy term, in Transfer-Learning-Library's form)."""
    return -torch.log(gather(p).mean(0) + 1e-6).mean()


@torch.no_grad()
def mean_of_heads(one: nn.Sequential, two: nn.Sequential) -> nn.Sequential:
    """One head whose logits are the mean of those of two heads of the same shape (Linear, BatchNorm, ReLU and
    Dropout layers).

    The hidden layers lie side by side: the first Linear stacked, later ones block-diagonal.
    """
    layers: list[nn.Module] = []
    last = max(i for i, layer in enumerate(one) if isinstance(layer, nn.Linear))
    first = True
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        if isinstance(a, nn.Linear):
            b = cast(nn.Linear, b)
            w = torch.cat([a.weight, b.weight]) if first else torch.block_diag(a.weight, b.weight)
            bias = torch.cat([a.bias, b.bias])
            if i == last:
                w, bias = (
                    (a.weight + b.weight) / 2 if first else torch.cat([a.weight, b.weight], 1) / 2,
                    (a.bias + b.bias) / 2,
                )
            layer, first = nn.Linear(w.shape[1], w.shape[0]).to(w), False
            layer.weight.copy_(w)
            layer.bias.copy_(bias)
        elif isinstance(a, nn.BatchNorm1d):
            layer = nn.BatchNorm1d(2 * a.num_features, a.eps, a.momentum).to(a.weight)
            state, other = a.state_dict(), b.state_dict()
            layer.load_state_dict({k: torch.cat([v, other[k]]) if v.dim() else v for k, v in state.items()})
        else:
            layer = type(a)(a.p) if isinstance(a, nn.Dropout) else type(a)()
        layers.append(layer)
    return nn.Sequential(*layers).eval()
