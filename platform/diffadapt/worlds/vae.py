"""Training of a small KL autoencoder (Rombach et al. 2022) on pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffadapt.core.errors import RecipeError
from diffadapt.models.diffusers_folder import save_component
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun
from diffadapt.worlds.batches import CaptionedImages, Shuffled, pixels
from diffadapt.worlds.config import AutoencoderFitConfig
from diffadapt.worlds.pipelines import fit, parameters, stored

GROUPS = 8
_ENCODE = 512
"""Pictures encoded at a time."""


class _Reconstruction(nn.Module):
    """The autoencoder's whole pass as one forward, which a distributed wrapper needs."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, kl


def train_autoencoder(
    data: CaptionedImages,
    config: AutoencoderFitConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    out: str | Path,
) -> dict[str, float]:
    """Train on the pictures of ``data`` and write an AutoencoderKL folder under ``out`` (rank 0), its
    ``scaling_factor`` measured.

    Returns the last scalars with ``parameters``. Raises RecipeError if the pictures' side cannot be halved
    often enough or widths are no multiples of 8.
    """
    shuffled = Shuffled(len(data), config.batch_size, config.seed, reporter)
    pictures = Pictures(
        data.images.shape[1:3], shuffled, lambda step: data.images[shuffled.indices(step)], data.images[:4096]
    )
    return fit_autoencoder(config, pictures, reporter, checkpoints, out)


@dataclass(frozen=True)
class Pictures:
    """What an autoencoder is trained on, of (height, width) ``size``."""

    size: tuple[int, int]
    shuffled: Shuffled
    batch: Callable[[int], np.ndarray]
    """Step -> this rank's share, uint8 (B, H, W, 3)."""
    sample: np.ndarray
    """uint8 (N, H, W, 3) that the scaling factor is measured on."""


def fit_autoencoder(
    config: AutoencoderFitConfig,
    pictures: Pictures,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    out: str | Path,
    *,
    precision: str = "fp32",
    build: Callable[[AutoencoderFitConfig, int], AutoencoderKL] | None = None,
    spread: float = 1.0,
) -> dict[str, float]:
    """The same for any source of batches.

    The scaling factor gives latents the standard deviation ``spread``; ``build(config, side)`` makes another
    network of the same class. Raises RecipeError as :func:`train_autoencoder`.
    """
    (height, width), factor = pictures.size, 2 ** (len(config.channels) - 1)
    if height % factor or width % factor:
        side = f"side {height}" if height == width else f"{height}x{width}"
        raise RecipeError(
            f"Pictures of {side} cannot be halved {len(config.channels) - 1} times; give fewer vae.channels."
        )
    if any(c % GROUPS for c in config.channels):
        raise RecipeError(f"vae.channels {config.channels} must be multiples of {GROUPS}.")
    torch.manual_seed(config.seed)
    vae = (build or _build)(config, height)
    module = _Reconstruction(vae).to(reporter.device)
    shape = (config.batch_size, config.latent_channels, height // factor, width // factor)

    shuffled = pictures.shuffled

    def batch_fn(step: int, micro: int):
        noise = torch.randn(shape, generator=shuffled.generator(step))[shuffled.mine]
        return pixels(pictures.batch(step), reporter.device), noise.to(reporter.device)

    def loss_fn(wrapped: nn.Module, batch, step: int):
        found, kl = wrapped(*batch)
        error = nn.functional.mse_loss(found.float(), batch[0])
        return {"loss": error + config.kl_weight * kl, "error": error, "kl": kl}

    metrics = fit(module, loss_fn, batch_fn, config, TrainingRun(reporter, checkpoints), precision=precision)
    metrics["parameters"] = parameters(vae)
    if reporter.rank == 0:
        mean, std = encode(vae, pictures.sample, reporter.device)
        measured = float((mean.var(dim=(0, 2, 3)) + (std**2).mean(dim=(0, 2, 3))).mean().sqrt())
        vae.register_to_config(scaling_factor=round(spread / measured, 4))
        save_component(vae.to(stored(config.save_precision)), out)
    reporter.barrier()
    return metrics


def _build(config: AutoencoderFitConfig, side: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=GROUPS,
        sample_size=side,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the unscaled latents of uint8 pictures (N, H, W, 3), on the CPU."""
    vae.eval()
    parts = [
        vae.encode(pixels(images[i : i + _ENCODE], device)).latent_dist
        for i in range(0, len(images), _ENCODE)
    ]
    return torch.cat([p.mean.cpu() for p in parts]), torch.cat([p.std.cpu() for p in parts])
