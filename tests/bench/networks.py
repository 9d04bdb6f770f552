"""The networks that are timed, with random weights: the published architectures on CUDA, small ones of their
kind elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DModel

from diffadapt.models.adm import ADMConfig
from diffadapt.models.dit import build_dit


@dataclass(frozen=True)
class Size:
    """Architectures and amounts of work of one size of benchmark."""

    name: str
    dit: dict[str, Any]
    vae_channels: tuple[int, ...]
    adm: ADMConfig
    batch: int
    """Images at a time in our setting; halved until they fit."""
    align_batch: int
    published_batch: int
    steps: tuple[int, int]
    """Steps that are really run; from their difference the time of all of them is computed."""
    repeats: int
    matmul: int
    """Side of the matrices whose product is timed."""
    shard_seconds: float
    """Work in one shard of the comparison of runners."""
    shards: int
    rounds: int


def _dit(heads: int, width: int, layers: int, sample: int, classes: int) -> dict[str, Any]:
    return dict(
        num_attention_heads=heads,
        attention_head_dim=width,
        num_layers=layers,
        in_channels=4,
        out_channels=8,
        sample_size=sample,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )


TINY = Size(
    "tiny",
    _dit(2, 8, 2, 8, 10),
    (8, 8),
    ADMConfig(
        image_size=16,
        model_channels=32,
        num_res_blocks=1,
        attention_ds=(2,),
        channel_mult=(1, 2),
        num_head_channels=16,
    ),
    batch=4,
    align_batch=2,
    published_batch=2,
    steps=(1, 3),
    repeats=1,
    matmul=128,
    shard_seconds=0.1,
    shards=5,
    rounds=1,
)
SMALL = Size(
    "small",
    _dit(6, 64, 12, 16, 1000),
    (16, 32, 32, 32),
    ADMConfig(
        image_size=64,
        model_channels=64,
        num_res_blocks=1,
        attention_ds=(4, 8),
        channel_mult=(1, 2, 2, 4),
        num_head_channels=32,
    ),
    batch=32,
    align_batch=16,
    published_batch=10,
    steps=(2, 6),
    repeats=3,
    matmul=1536,
    shard_seconds=2.0,
    shards=9,
    rounds=3,
)
PUBLISHED = Size(
    "published",
    _dit(16, 72, 28, 32, 1000),
    (128, 256, 512, 512),
    ADMConfig(),
    batch=256,
    align_batch=64,
    published_batch=10,
    steps=(5, 20),
    repeats=3,
    matmul=8192,
    shard_seconds=2.0,
    shards=9,
    rounds=3,
)
SIZES = {s.name: s for s in (TINY, SMALL, PUBLISHED)}


def make_dit(size: Size, device: torch.device | str) -> DiTTransformer2DModel:
    """DiT (published: XL/2 at 256 pixels), frozen, random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        return build_dit(**size.dit).requires_grad_(False).eval()


def make_vae(size: Size, device: torch.device | str) -> AutoencoderKL:
    """The autoencoder that goes with it (published: sd-vae-ft-ema's configuration)."""
    torch.manual_seed(1)
    levels = len(size.vae_channels)
    with torch.device(device):
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            block_out_channels=size.vae_channels,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=min(32, size.vae_channels[0] // 2),
            sample_size=256,
            scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
    return vae.requires_grad_(False).eval()


def make_adm(size: Size, device: torch.device | str) -> UNet2DModel:
    """ADM (published: 256x256 unconditional), frozen, random weights with a quiet output so that no step
    overflows."""
    torch.manual_seed(2)
    with torch.device(device):
        unet = UNet2DModel(**size.adm.unet_config()).requires_grad_(False).eval()
        if str(device) != "meta":
            unet.conv_out.weight.mul_(0.1)
    return unet


@dataclass(frozen=True)
class Operations:
    """FLOP of one image, counted on a twin without storage."""

    dit: float
    decode: float
    adm: float
    adm_guided: float = field(default=0.0)
    """Forward and the gradient with respect to the input; weights are frozen."""


def count_operations(size: Size) -> Operations:
    """One forward of each network and ADM's input gradient, batch 1."""
    from tests.bench.measure import flops

    with torch.device("meta"):
        dit, vae, adm = make_dit(size, "meta"), make_vae(size, "meta"), make_adm(size, "meta")
        side, pixels, t = size.dit["sample_size"], size.adm.image_size, torch.zeros(1, dtype=torch.int64)
        latents, images = torch.empty(1, 4, side, side), torch.empty(1, 3, pixels, pixels)
        with torch.no_grad():
            forward = flops(lambda: dit(latents, t, t, return_dict=False))
            decode = flops(lambda: vae.decode(latents))
            plain = flops(lambda: adm(images, t))
        noisy = torch.empty(1, 3, pixels, pixels, requires_grad=True)
        guided = flops(lambda: adm(noisy, t).sample.sum().backward())
    return Operations(forward, decode, plain, guided)
