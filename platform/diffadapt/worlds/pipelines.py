"""What the trainings of small generators share: the loop's settings, schedule, and a pipeline's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import nn

from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.optim import warm_cosine
from diffadapt.train.run import TrainingRun


def fit(
    module: nn.Module,
    loss_fn: Callable[..., Any],
    batch_fn: Callable[..., Any],
    config: Any,
    run: TrainingRun,
    **more: Any,
) -> dict[str, float]:
    """:func:`run_loop` with AdamW and a cosine after a warm-up, as one of worlds' configurations says;
    ``more`` are further fields of Optimisation."""
    decay = getattr(config, "weight_decay", 0.0)
    how = Optimisation(
        torch.optim.AdamW(module.parameters(), lr=config.lr, weight_decay=decay),
        lambda step: warm_cosine(step, config.lr, config.warmup_steps, config.steps),
        config.steps,
        clip_norm=getattr(config, "clip_norm", 1.0),
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        **more,
    )
    return run_loop(module, loss_fn, batch_fn, how, run)


def parameters(*modules: nn.Module) -> float:
    """How many they have together."""
    return float(sum(p.numel() for module in modules for p in module.parameters()))


def stored(precision: str) -> torch.dtype:
    """The type that weights are saved in: 'fp16' or 'fp32'."""
    return torch.float16 if precision == "fp16" else torch.float32


def sd_schedule(prediction: str = "epsilon", **more: Any) -> DDIMScheduler:
    """Stable Diffusion 1.5's schedule, as ZoDi samples with it; ``more`` goes to the scheduler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        **more,
    )


def save_transformers(model: nn.Module, folder: Path, precision: str) -> None:
    """safetensors in ``precision``, readable by all; config.json asks for float32, so that loaders compute in
    it."""
    model.to(stored(precision)).save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    for part in (config, *(v for v in config.values() if isinstance(v, dict))):
        part["dtype"] = "float32"
    write_json(folder / "config.json", config, sort_keys=True)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    model.float()


def write_index(folder: Path, pipeline: str, **parts: list[str]) -> None:
    """model_index.json of a Stable Diffusion pipeline without safety checker; ``parts`` are further ones."""
    index = {
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    head = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    write_json(folder / "model_index.json", {**head, **parts, **index})


def write_json(file: Path, values: dict[str, Any], sort_keys: bool = False) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=sort_keys) + "\n")
