"""What half precision costs: projections in fp16 and bf16 against fp32, in grey levels."""

from __future__ import annotations

import numpy as np
import torch

from diffadapt.data.config import DataConfig
from diffadapt.data.corruptions import corrupt
from diffadapt.data.source import open_source
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.network import UnconditionalNetwork, load_unconditional
from diffadapt.diffusion.projector import Projector
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size, make_adm

GATE = 1.0
"""Mean absolute difference in grey levels up to which a precision may be used without an accuracy ablation of
its own."""
HALF = ("fp16", "bf16")


def accuracy(size: Size, device: torch.device, weights: str | None = None) -> Report:
    """Noisy handwritten digits through the shipped network; on CUDA also the ADM, with ``weights`` if they
    are given."""
    count = 8 if size.name == "tiny" else 100
    digits = AlignConfig(
        weights="embedded:digits-unet", respacing=10, start=3, scale=2.0, factor=2, batch_size=100
    )
    metrics = _gates(
        "digits", lambda p: load_unconditional(digits.weights, device, p), digits, noisy_digits(count)
    )
    conditions = [
        f"{count} handwritten digits with Gaussian noise of severity 5, shipped network, 3 guided steps"
    ]
    if weights or (device.type == "cuda" and size.name == "published"):
        config = AlignConfig(batch_size=8)
        side = size.adm.image_size
        images = torch.nn.functional.interpolate(
            torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1,
            size=side,
            mode="bicubic",
        ).clamp(-1, 1)
        metrics += _gates(
            "ADM",
            lambda p: (
                load_unconditional(weights, device, p)
                if weights
                else UnconditionalNetwork(make_adm(size, device), device=device, precision=p)
            ),
            config,
            images,
        )
        conditions.append(
            f"ADM: {weights or 'random weights, so only a sign'}; 8 smooth images, 50 guided steps"
        )
    return Report("Accuracy of half precision", metrics, conditions)


def noisy_digits(count: int) -> torch.Tensor:
    """(count, 1, 16, 16) in [-1, 1]: test digits under Gaussian noise."""
    source = open_source(DataConfig(path="embedded:digits", split="test", image_size=16, channels=1))
    arrays = [
        corrupt(source.image(item.key, 1, 16), "gaussian_noise", 5, seed)
        for seed, item in enumerate(source.items[:count])
    ]
    stacked = np.stack([np.asarray(a).reshape(16, 16, 1) for a in arrays])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def _gates(name: str, network, config: AlignConfig, images: torch.Tensor) -> list[Metric]:
    seeds = list(range(len(images)))
    reference = Projector(network("fp32"), config).project(images, seeds).int()
    metrics = []
    for precision in HALF:
        found = Projector(network(precision), config).project(images, seeds).int()
        difference = (found - reference).abs()
        note = (
            f"most {int(difference.max())}; {float((difference > 1).float().mean()):.2%} of pixels differ by"
            " more than one level"
        )
        metrics.append(
            Metric(
                f"{name}: mean difference, {precision} against fp32",
                float(difference.float().mean()),
                "levels",
                GATE,
                "lower",
                note,
            )
        )
    return metrics
