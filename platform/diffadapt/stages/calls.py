"""What the stages' networks are called for, one helper a kind of network; see core/flops.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.core.flops import Call, Mode, Network
from diffadapt.core.stage import NodePlan
from diffadapt.diffusion.aligners.base import Calls
from diffadapt.models import architectures
from diffadapt.models.config import ClassifierConfig

STATES = {"sgd": 2, "adam": 3, "adamw": 3}
"""Copies of the weights that a training keeps: gradient and moments."""


def of_classifier(
    config: ClassifierConfig, classes: int | None, *, passes: float = 1.0, mode: Mode = "forward", **more: Any
) -> tuple[Call, ...] | None:
    """``passes`` of a classifier an item; ``more``: fields of :class:`Call` beside its precision and
    batch."""
    network = architectures.classifier(config, classes)
    given = {"precision": config.precision, "batch": config.batch_size, **more}
    return None if network is None else (Call(network, passes, mode, **given),)


def fitted_network(inputs: Mapping[str, NodePlan]) -> Network | None:
    """The network of the first input that trains one and can say which (``network()``)."""
    for plan in inputs.values():
        describe = getattr(plan.stage, "network", None) if plan.stage.fit_stage else None
        if describe is not None:
            return describe()
    return None


def unconditional(weights: str, inputs: Mapping[str, NodePlan]) -> Network | None:
    """The network of an unconditional model, or of what the recipe trains."""
    if weights == "train":
        return fitted_network(inputs)
    return architectures.part(weights, "unet") or architectures.part(weights, "")


def of_unconditional(
    weights: str, inputs: Mapping[str, NodePlan], cost: Calls | None, **more: Any
) -> tuple[Call, ...] | None:
    """An aligner's ``cost`` an item; None where it, or the network, is not known."""
    network = unconditional(weights, inputs)
    if cost is None or network is None:
        return None
    return tuple(Call(network, n, mode, **more) for mode, n in cost.modes.items() if n)


def of_latents(
    weights: str, part: str, inputs: Mapping[str, NodePlan], passes: float, side: int, **more: Any
) -> tuple[Call, ...] | None:
    """``passes`` of the denoiser ``part`` (unet, transformer) of a folder or of the fitted generator among
    ``inputs`` an image of ``side`` pixels (0: the network's own), and one of its decoder where it has one.
    The text encoder's share is below a hundredth and left out."""
    if weights == "train":
        network = fitted_network(inputs)
        return None if network is None else (Call(network, passes, **more),)
    config = architectures.component(weights, part)
    vae = architectures.component(weights, "vae")
    if config is None:
        return None
    factor = 2 ** (len(vae["block_out_channels"]) - 1) if vae else 1
    own = int(config.get("sample_size") or 64) * factor
    side = side or own
    size = {} if side == own else {"height": side // factor, "width": side // factor}
    denoiser = architectures.part(weights, part, **size)
    if denoiser is None:
        return None
    calls = [Call(denoiser, passes, **more)]
    if vae:
        decoder = architectures.decoder(weights, "vae", side, side)
        if decoder is None:
            return None
        calls.append(Call(decoder, 1.0, precision="fp32", batch=min(8, more.get("batch", 1))))
    return tuple(calls)
