"""Random networks of a few thousand parameters in the published formats: a DiTPipeline, an unconditional ADM,
a timm folder, ImageNet-C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DModel

from diffadapt.data.image import encode_jpeg
from diffadapt.models.classifier import create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.diffusers_folder import save_component, save_scheduler, write_model_index
from diffadapt.models.dit import build_dit, save_dit
from diffadapt.models.export import export_classifier

WNIDS = ("n01440764", "n01443537", "n01484850")


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that make outputs of a natural size: networks start with zeros where it matters."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.08
    return model.eval()


def dit_folder(folder: Path, classes: int = 3) -> str:
    """DiT on 16x16 latents of 4 channels with learned variance and a null class, and an autoencoder: images
    of 32x32."""
    torch.manual_seed(0)
    model = build_dit(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        in_channels=4,
        out_channels=8,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=classes,
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.18215,
    )
    save_dit(randomise(model, 1), folder / "transformer")
    save_component(randomise(vae, 2), folder / "vae")
    save_scheduler(folder, learn_sigma=True, clip_sample=False)
    write_model_index(folder, "DiTPipeline", has_vae=True)
    return str(folder)


def adm_folder(folder: Path) -> str:
    """An unconditional UNet on 32x32 RGB images with learned variance."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        resnet_time_scale_shift="scale_shift",
    )
    save_component(randomise(unet, 3), folder / "unet")
    save_scheduler(folder, learn_sigma=True, clip_sample=True)
    write_model_index(folder, "DDPMPipeline")
    return str(folder)


def classifier_folder(folder: Path, classes: int = 3, arch: str = "resnet10t") -> str:
    torch.manual_seed(0)
    config = ClassifierConfig(name="train", arch=arch, resize=36, crop=32)
    folder.mkdir(parents=True, exist_ok=True)
    export_classifier(create_model(arch, classes), str(folder), arch, config, list(WNIDS[:classes]), {})
    return str(folder)


def imagenet_c(folder: Path, corruptions=("fog", "contrast"), per_class: int = 2, severity: int = 5) -> str:
    """``{corruption}/{severity}/{wnid}/*.JPEG`` of 40x36 noise, a few images a class."""
    for corruption in corruptions:
        for c, wnid in enumerate(WNIDS):
            place = folder / corruption / str(severity) / wnid
            place.mkdir(parents=True)
            for i in range(per_class):
                pixels = np.random.default_rng(10 * c + i).integers(0, 256, (40, 36, 3), dtype=np.uint8)
                (place / f"ILSVRC2012_val_{10 * c + i:08d}.JPEG").write_bytes(encode_jpeg(pixels))
    return str(folder)
