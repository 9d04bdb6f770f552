"""Training of a student that reproduces an aligner's images in one to four network calls."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.network import settings_of
from diffadapt.diffusion.student import student_levels, student_steps
from diffadapt.models.diffusers_folder import load_component, read_json, write_details
from diffadapt.train.config import DistilConfig
from diffadapt.train.diffusion import batch_plan, timed_loop
from diffadapt.train.diffusion_batches import Batch, DiffusionBatches, ImageSource
from diffadapt.train.diffusion_network import Denoiser, save_denoiser
from diffadapt.train.ema import Ema
from diffadapt.train.loop import Optimisation
from diffadapt.train.run import TrainingRun

SCHEDULER = "scheduler/scheduler_config.json"


def train_student(
    pairs: ImageSource,
    weights: str,
    teacher: AlignConfig,
    config: DistilConfig,
    seed: int,
    run: TrainingRun,
    out: str | Path,
) -> dict[str, float]:
    """Train a student of the aligner ``teacher`` on ``pairs`` and save it under ``out`` as a diffusers
    UNet2DModel with diffadapt.json.

    ``pairs``: uint8 (H, W, 2C), an image and what the teacher made of it. The student is the unconditional
    network ``weights`` whose first layer sees the image beside the noised one, by weights that begin at 0
    (Brooks et al. 2023), so that it starts as that network's own prediction. It is given the teacher's first
    state: the image noised to the teacher's level, with noise of its own at every step; each of its calls
    predicts the clean image, and its distance to the teacher's is the loss: guided sampling distilled into
    one network by regression on its results (Meng et al. 2023, section 3; Salimans and Ho 2022), without
    their stages of halved steps. Between calls lies a DDIM step of the student's own, as when it is used. No
    label is read. The saved weights are the moving average; a global batch is the same on any number of
    workers, and training resumes exactly.

    Returns the last scalars with ``parameters``, ``steps``, ``resumed_from`` and ``images_per_second``.
    Raises RecipeError for settings that do not fit, DataError for pairs that do not, TrainingError on NaN.
    """
    reporter = run.reporter
    subfolder, details, schedule = settings_of(weights)
    levels = _levels(schedule, teacher, config)
    model = _widened(load_component(UNet2DModel, weights, subfolder), int(details.get("space_to_depth", 1)))
    core: Any = model.core
    channels = core.config.in_channels // model.space_to_depth**2
    if len(pairs) and pairs[0][0].shape[2] != channels:
        raise DataError(
            f"The student's network works on images of {channels // 2} channels, but the pairs have"
            f" {pairs[0][0].shape[2] // 2}: set source.channels to the network's."
        )
    model = model.to(reporter.device)
    plan = batch_plan(config, reporter, seed)
    batches = DiffusionBatches(pairs, plan, device=reporter.device, timesteps=len(schedule))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    ema = Ema(model, config.ema_decay, warmup=True)

    def loss_fn(module: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        image, wanted = batch.x0.chunk(2, dim=1)
        noise = batch.noise.chunk(2, dim=1)[0]
        found = [
            _distance(x0.float(), wanted, config.loss)
            for x0 in student_steps(module, schedule, levels, image, noise)
        ]
        scalars = {f"call_{k}": loss for k, loss in enumerate(found, 1)} if len(found) > 1 else {}
        return {"loss": torch.stack(found).mean(), **scalars}

    how = Optimisation(
        optimizer,
        lambda step: config.lr * _rate(step, config.warmup_steps, config.steps),
        config.steps,
        ema=ema,
        precision=config.precision,
        clip_norm=config.clip_norm,
        accumulate=plan.accumulate,
        seed=seed,
        checkpoint_every=config.checkpoint_every,
    )
    metrics = timed_loop(model, loss_fn, batches, how, run, config.batch_size)
    if reporter.rank == 0:
        ema.copy_to(model)
        _save(model, Path(out), weights, config, details, levels)
    reporter.barrier()
    return metrics


def _levels(schedule: Any, teacher: AlignConfig, config: DistilConfig) -> tuple[int, ...]:
    respaced = schedule.respace(teacher.respacing)
    top = teacher.start - 1 if teacher.noise_at_first_step else min(teacher.start, len(respaced) - 1)
    levels = student_levels(respaced, top, config.calls)
    if len(set(levels)) < len(levels):
        raise RecipeError(
            f"distil.calls is {config.calls}, but the teacher begins at step {levels[0]} of the noise"
            " already: lower distil.calls, or raise align.start."
        )
    return levels


def _widened(unet: UNet2DModel, space_to_depth: int) -> Denoiser:
    """The network with as many input channels again, whose weights are 0."""
    config: Any = unet.config
    wide: Any = UNet2DModel.from_config({**config, "in_channels": 2 * config.in_channels})
    state = unet.state_dict()
    first = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    wide.load_state_dict(state)
    return Denoiser(wide.float().requires_grad_(True), space_to_depth)


def _distance(a: Tensor, b: Tensor, loss: str) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return F.mse_loss(a, b) if loss == "l2" else F.l1_loss(a, b)


def _rate(step: int, warmup: int, total: int) -> float:
    rising = min(1.0, (step + 1) / max(1, warmup))
    return rising * 0.5 * (1 + math.cos(math.pi * step / total))


def _save(
    model: Denoiser,
    out: Path,
    weights: str,
    config: DistilConfig,
    details: dict[str, Any],
    levels: tuple[int, ...],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_denoiser(model, out, torch.float16 if config.save_precision == "fp16" else torch.float32)
    scheduler = read_json(weights, SCHEDULER) or read_json(weights, "scheduler_config.json")
    if scheduler is not None:
        (out / SCHEDULER).parent.mkdir()
        (out / SCHEDULER).write_text(json.dumps(scheduler, indent=2, sort_keys=True) + "\n")
    kept = {k: details[k] for k in ("image_size", "channels", "space_to_depth") if k in details}
    student = {"levels": list(levels), "training": to_dict(config, identity_only=True)}
    write_details(out, {**kept, "student": student})
