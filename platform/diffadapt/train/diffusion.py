"""Training of the generators: a class-conditional DiT, or an unconditional UNet for alignment, on a user's
own images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.diffusion.generators.upsample import Filter, upsample
from diffadapt.diffusion.samplers import sample
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import q_sample
from diffadapt.models.diffusers_folder import (
    load_component,
    save_component,
    save_scheduler,
    write_details,
    write_model_index,
)
from diffadapt.train.config import DiffusionFitConfig, DistilConfig
from diffadapt.train.diffusion_batches import Batch, BatchPlan, DiffusionBatches, ImageSource, latent_shape
from diffadapt.train.diffusion_loss import diffusion_loss
from diffadapt.train.diffusion_network import Denoiser, build_denoiser, save_denoiser
from diffadapt.train.ema import Ema
from diffadapt.train.loop import LossFn, Optimisation, run_loop
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun

UPSAMPLE_FILTER: Filter = "bilinear"
"""Between native and image size; the filter by which the embedded digits are enlarged."""

GRID_SIDE, GRID_STEPS = 8, 50


def train_diffusion(
    images: ImageSource,
    config: DiffusionFitConfig,
    num_classes: int | None,
    run: TrainingRun,
    out: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    log_dir: str | None = None,
) -> dict[str, float]:
    """Train the network of ``config`` and save it under ``out`` as a DiTPipeline or DDPMPipeline folder with
    diffadapt.json.

    ``images``: square uint8 images of one size (:class:`ArrayImages` in memory, or any indexable object);
    ``num_classes``: for a DiT, None for a unet. The loss is noise prediction over the linear 1000-step
    schedule (with ``learn_sigma`` the hybrid bound); the saved weights are the moving average. A global batch
    is the same on any number of workers, and training resumes exactly. With
    ``log_dir`` trackers get grids of samples every ``config.sample_every`` steps.

    Returns the last scalars with ``parameters``, ``steps``, ``resumed_from`` and ``images_per_second``.
    Raises TrainingError on NaN (the last good checkpoint stays), RecipeError for settings that do not fit,
    DataError for images that do not.
    """
    reporter, schedule = run.reporter, Schedule.linear()
    plan = batch_plan(config, reporter, config.seed, config.label_dropout)
    image_size, channels = _image_shape(images)
    vae = _load_vae(config, channels, image_size, reporter.device)
    shrink = _shrink(config, image_size)
    batches = DiffusionBatches(
        images,
        plan,
        device=reporter.device,
        timesteps=len(schedule),
        num_classes=num_classes,
        shrink=shrink,
        shrink_filter=UPSAMPLE_FILTER,
        vae=vae,
    )
    c, size = channels, image_size // shrink
    if vae is not None:
        _, c, size, _ = latent_shape(vae, (1, channels, image_size, image_size))
    torch.manual_seed(config.seed)  # the initial weights
    model = build_denoiser(config, c, size, num_classes).to(reporter.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    ema = Ema(model, config.ema_decay, warmup=True)

    def loss_fn(module: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        x_t = q_sample(schedule, batch.t, batch.x0, batch.noise)
        out = module(x_t, batch.t) if batch.y is None else module(x_t, batch.t, batch.y)
        with torch.autocast(x_t.device.type, enabled=False):
            return diffusion_loss(schedule, batch.t, batch.x0, x_t, batch.noise, out)

    how = Optimisation(
        optimizer,
        lambda step: config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps)),
        config.steps,
        ema=ema,
        precision=config.precision,
        clip_norm=config.clip_norm,
        accumulate=plan.accumulate,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
    )
    if log_dir is not None and config.sample_every and reporter.rank == 0:
        grids = _Grids(model, ema, schedule, num_classes, (c, size, size), shrink, vae, config, reporter)
        run = replace(run, on_step=grids)
    metrics = timed_loop(model, loss_fn, batches, how, run, config.batch_size)
    if reporter.rank == 0:
        ema.copy_to(model)
        details = {
            "image_size": image_size,
            "channels": channels,
            "native_size": image_size // shrink,
            "upsample": shrink,
            "upsample_filter": UPSAMPLE_FILTER,
            "space_to_depth": config.space_to_depth,
            "class_names": None if class_names is None else list(class_names),
            "training": to_dict(config, identity_only=True),
        }
        _save(model, Path(out), config, vae, details)
    reporter.barrier()
    return metrics


def _save(
    model: Denoiser, out: Path, config: DiffusionFitConfig, vae: AutoencoderKL | None, details: dict[str, Any]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_denoiser(model, out, torch.float16 if config.save_precision == "fp16" else torch.float32)
    save_scheduler(out, learn_sigma=config.learn_sigma, clip_sample=vae is None)
    if vae is not None:
        save_component(vae, out / "vae")
    pipeline = "DiTPipeline" if config.architecture == "dit" else "DDPMPipeline"
    write_model_index(out, pipeline, has_vae=vae is not None, class_names=details["class_names"])
    write_details(out, details)


def timed_loop(
    model: nn.Module,
    loss_fn: LossFn,
    batches: DiffusionBatches,
    how: Optimisation,
    run: TrainingRun,
    batch_size: int,
) -> dict[str, float]:
    """:func:`run_loop`, and ``images_per_second`` at ``batch_size`` images a step with the number of
    ``parameters``."""
    began = time.perf_counter()
    metrics = run_loop(model, loss_fn, batches, how, run)
    done = (how.total_steps - metrics["resumed_from"]) * batch_size
    metrics["images_per_second"] = done / max(time.perf_counter() - began, 1e-9)
    metrics["parameters"] = float(sum(p.numel() for p in model.parameters()))
    return metrics


def batch_plan(
    config: DiffusionFitConfig | DistilConfig, reporter: Reporter, seed: int, label_dropout: float = 0.0
) -> BatchPlan:
    """This rank's part of the batches of ``config``. Raises RecipeError where they cannot be shared."""
    if config.batch_size % reporter.world_size:
        raise RecipeError(
            f"batch_size {config.batch_size} cannot be split evenly over {reporter.world_size} workers; use a"
            " multiple of the workers."
        )
    share = config.batch_size // reporter.world_size
    limit = min(config.micro_batch or share, share)
    micro = next(m for m in range(limit, 0, -1) if share % m == 0)
    return BatchPlan(
        seed,
        config.batch_size,
        reporter.rank,
        reporter.world_size,
        micro,
        label_dropout,
        config.flip,
    )


def _image_shape(images: ImageSource) -> tuple[int, int]:
    if len(images) == 0:
        raise DataError(
            "There are no images to train on; check data.path, data.part and data.limit_per_class."
        )
    height, width, channels = images[0][0].shape
    if height != width or channels not in (1, 3):
        raise DataError(
            f"Diffusion training needs square grey or RGB images, but the first is {height}x{width} with"
            f" {channels} channels."
        )
    return height, channels


def _shrink(config: DiffusionFitConfig, image_size: int) -> int:
    """How many times smaller than the image the network's pixels are."""
    if not config.native_size or config.native_size == image_size:
        return 1
    if config.architecture != "dit" or config.latent is not None or image_size % config.native_size:
        raise RecipeError(
            f"native_size {config.native_size} needs a pixel-space dit and must divide the image size"
            f" {image_size}; set it to 0 (alignment denoises full-size images)."
        )
    return image_size // config.native_size


def _load_vae(
    config: DiffusionFitConfig, channels: int, image_size: int, device: torch.device
) -> AutoencoderKL | None:
    if config.latent is None:
        return None
    if config.architecture != "dit":
        raise RecipeError(
            "latent is for architecture dit; the unet is trained on pixels, so set latent to None."
        )
    inner = "vae" if (Path(config.latent) / "vae" / "config.json").is_file() else None
    vae = load_component(AutoencoderKL, config.latent, inner).to(device)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if vae.config.in_channels != channels or image_size % factor:
        raise RecipeError(
            f"The autoencoder {config.latent!r} takes {vae.config.in_channels} channels and sizes divisible"
            f" by {factor}, but the images have {channels} and {image_size}; change data.channels or"
            " data.image_size."
        )
    return vae


@dataclass(frozen=True)
class _Grids:
    """An ``on_step`` that draws a grid of samples with the averaged weights."""

    model: Denoiser
    ema: Ema
    schedule: Schedule
    num_classes: int | None
    shape: tuple[int, int, int]
    shrink: int
    vae: AutoencoderKL | None
    config: DiffusionFitConfig
    reporter: Reporter

    @torch.no_grad()
    def __call__(self, finished: int, scalars: dict[str, float]) -> None:
        if finished % self.config.sample_every and finished != self.config.steps:
            return
        model, vae, count = self.model, self.vae, GRID_SIDE**2
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(self.config.seed)

        def draw() -> Tensor:
            return torch.randn((count, *self.shape), generator=generator).to(device)

        labels = None if self.num_classes is None else (torch.arange(count) % self.num_classes).to(device)
        model.eval()
        with self.ema.applied(model):
            x = sample(
                lambda x, t: model(x, t, labels),
                draw(),
                self.schedule,
                sampler="ddpm",
                steps=GRID_STEPS,
                noise=draw,
                clip=vae is None,
            )
        model.train()
        if vae is not None:
            x = torch.cat([vae.decode(z / vae.config.scaling_factor).sample for z in x.split(8)])
        self.reporter.figures(finished, {"samples": _grid(upsample(x, self.shrink, UPSAMPLE_FILTER))})


def _grid(images: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] as one picture, uint8 (height, width, 3)."""
    from torchvision.utils import make_grid

    grid = make_grid(((images.float().cpu() + 1.0) / 2.0).clamp(0, 1), nrow=GRID_SIDE, padding=1)
    return (grid * 255.0).to(torch.uint8).permute(1, 2, 0).numpy()
