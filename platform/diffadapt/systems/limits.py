"""The ranges of a recipe's numbers, checked before anything is planned: a batch of 0 must not fail hours into
a run."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.data.config import DataConfig, TargetConfig
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.aligners.config import AlignConfig, GDAConfig
from diffadapt.diffusion.generators.config import FilterConfig, SynthConfig, TextToImageConfig
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.methods.ssl.base import SslMethod
from diffadapt.methods.ssl.config import SplitConfig, SslTraining
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.methods.uda.config import UdaTraining
from diffadapt.models.config import BackboneConfig, ClassifierConfig, ClipConfig, SelectConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.prompts.config import LlmConfig, PromptConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.tasks.segmentation.config import SegmentTraining
from diffadapt.train.config import DiffusionFitConfig, FitConfig
from diffadapt.worlds.config import (
    AutoencoderFitConfig,
    ClipFitConfig,
    TextToImageFitConfig,
)

Range = tuple[float | None, float | None]
"""Smallest and largest value, both allowed; None: no bound."""
ONE: Range = (1, None)
ZERO: Range = (0, None)
FRACTION: Range = (0, 1)
STEPS: Range = (1, 1000)
_FIT: dict[str, Range] = {
    "batch_size": ONE, "lr": ZERO, "weight_decay": ZERO, "clip_norm": ZERO, "micro_batch": ZERO,
    "checkpoint_every": ONE,
}  # fmt: skip
LIMITS: dict[type, dict[str, Range]] = {
    ExecutionConfig: {
        "actors": ZERO,
        "gpus_per_actor": ZERO,
        "train_workers": ONE,
        "max_failed_fraction": FRACTION,
        "threads": ZERO,
        "object_store_mb": ONE,
        "resident_models": ONE,
    },
    DataConfig: {"image_size": ONE, "limit_per_class": ONE, "block": ONE, "part": FRACTION},
    TargetConfig: {"severities": (1, 5), "resize": ZERO, "size": ONE, "jpeg_quality": (0, 100)},
    ClassifierConfig: {
        "num_classes": ONE,
        "resize": ZERO,
        "crop": ONE,
        "std": (1e-6, None),
        "batch_size": ONE,
    },
    SynthConfig: {
        "images_per_class": ONE,
        "guidance": ONE,
        "steps": STEPS,
        "images_per_shard": ONE,
        "classes_per_shard": ONE,
        "batch_size": ONE,
    },
    AlignConfig: {"respacing": STEPS, "start": ONE, "factor": ONE, "batch_size": ONE, "coupled_batch": ONE},
    GDAConfig: {"views": ONE, "patches": ONE, "temperature": (1e-6, None)},
    MemoConfig: {
        "views": ONE,
        "lr": ZERO,
        "weight_decay": ZERO,
        "steps": ONE,
        "bn_prior": ZERO,
        "limit": ONE,
        "chunk": ONE,
    },
    TentConfig: {"batch_size": ONE, "lr": ZERO, "steps": ONE, "limit": ONE},
    FitConfig: {
        **_FIT,
        "epochs": ONE,
        "milestones": ONE,
        "warmup_epochs": ZERO,
        "warmup_lr": ZERO,
        "min_lr": ZERO,
        "label_smoothing": FRACTION,
        "drop_path": FRACTION,
    },
    DiffusionFitConfig: {
        **_FIT,
        "steps": ONE,
        "warmup_steps": ZERO,
        "ema_decay": FRACTION,
        "label_dropout": FRACTION,
        "channels": ONE,
        "layers_per_block": ONE,
        "attention_levels": ZERO,
        "patch_size": ONE,
        "space_to_depth": ONE,
        "native_size": ZERO,
        "sample_every": ZERO,
    },
    LlmConfig: {"temperature": ZERO, "ask": ONE, "retries": ZERO, "timeout": (0.1, None)},
    PromptConfig: {"prompts_per_class": ONE, "block": ONE},
    TextToImageConfig: {
        "images_per_class": ONE,
        "guidance": ZERO,
        "steps": STEPS,
        "size": ZERO,
        "store_size": ZERO,
        "images_per_shard": ONE,
        "classes_per_shard": ONE,
        "batch_size": ONE,
    },
    FilterConfig: {"blank_std": ZERO, "near_duplicates": (-1, 64), "clip_threshold": FRACTION},
    BackboneConfig: {"weak_views": ZERO, "strong_views": ZERO},
    ClipConfig: {"batch_size": ONE},
    SelectConfig: {"candidates": ONE},
    UdaTraining: {
        "batch_size": ONE,
        "epochs": ONE,
        "steps_per_epoch": ONE,
        "lr": ZERO,
        "sdat": ZERO,
        "checkpoint_every": ONE,
    },
    SslTraining: {
        "batch_size": ONE,
        "epochs": ONE,
        "steps_per_epoch": ONE,
        "lr": ZERO,
        "checkpoint_every": ONE,
    },
    SplitConfig: {
        "fraction": (1e-6, 1),
        "threshold": FRACTION,
        "warn_confident": FRACTION,
        "warn_coverage": FRACTION,
    },
    UdaMethod: {
        "lr": ZERO,
        "lr_gamma": ZERO,
        "lr_decay": ZERO,
        "momentum": FRACTION,
        "weight_decay": ZERO,
        "backbone_lr": ZERO,
        "bottleneck": ZERO,
        "clip_norm": (1e-9, None),
    },
    SslMethod: {
        "lr": ZERO,
        "lr_gamma": ZERO,
        "lr_decay": ZERO,
        "momentum": FRACTION,
        "weight_decay": ZERO,
        "backbone_lr": ZERO,
        "mu": ONE,
        "lambda_u": ZERO,
        "ema": FRACTION,
    },
}
_SMALL_FIT: dict[str, Range] = {
    "steps": ONE,
    "batch_size": ONE,
    "lr": ZERO,
    "warmup_steps": ZERO,
    "checkpoint_every": ONE,
    "seed": ZERO,
}
LIMITS |= {
    ClipFitConfig: {
        **_SMALL_FIT,
        "weight_decay": ZERO,
        "batch_size": (2, None),
        "width": ONE,
        "layers": ONE,
        "heads": ONE,
        "patch_size": ONE,
        "max_words": (3, None),
    },
    AutoencoderFitConfig: {**_SMALL_FIT, "channels": ONE, "latent_channels": ONE, "kl_weight": ZERO},
    TextToImageFitConfig: {
        **_SMALL_FIT,
        "weight_decay": ZERO,
        "ema_decay": FRACTION,
        "clip_norm": (1e-9, None),
        "prompt_dropout": FRACTION,
        "channels": ONE,
        "heads": ONE,
        "groups": ONE,
        "sampling_steps": STEPS,
    },
}
LIMITS |= {
    SceneConfig: {"size": ZERO, "only_size": ZERO, "limit": ONE, "block": ONE},
    TransferConfig: {
        "strength": (1e-3, 1),
        "steps": STEPS,
        "guidance": ZERO,
        "eta": FRACTION,
        "control_scale": ZERO,
        "size": ONE,
        "multiple": ONE,
        "images_per_shard": ZERO,
        "batch_size": ONE,
    },
    QualityConfig: {
        "consistency": ZERO,
        "edges": (-1, 1),
        "luminance": (0, 255),
        "clip_score": FRACTION,
        "retries": (0, 100),
        "strength_step": FRACTION,
    },
    SegmenterConfig: {
        "width": ZERO,
        "dropout": (0, 0.99),
        "layers": ONE,
        "size": ONE,
        "std": (1e-6, None),
        "batch_size": ONE,
    },
    SegmentTraining: {
        "similarity": ZERO,
        "epochs": ONE,
        "batch_size": ONE,
        "crop": ZERO,
        "jitter": ZERO,
        "lr": ZERO,
        "head_lr": ZERO,
        "momentum": FRACTION,
        "weight_decay": ZERO,
        "power": ZERO,
        "clip_norm": (1e-9, None),
        "candidates": ONE,
        "seed": ZERO,
        "checkpoint_every": ONE,
    },
}
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_limits(recipe: Any, prefix: str = "") -> None:
    """Raise RecipeError for the first number of ``recipe``, a tree of configurations, that is out of its
    range."""
    limits = limits_of(type(recipe))
    for f in fields(recipe):
        value, name = getattr(recipe, f.name), prefix + f.name
        if is_dataclass(value):
            check_limits(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise RecipeError(f"{name} is {number} but must be a finite number.")
            if f.name in limits and number is not None:
                _check(name, number, *limits[f.name])
    if hasattr(recipe, "num_classes") and recipe.num_classes is not None and recipe.num_classes < 0:
        raise RecipeError(
            f"{prefix}num_classes is {recipe.num_classes} but must not be negative (0: as many as the data"
            " have)."
        )
    if isinstance(recipe, ExecutionConfig) and not _DEVICE.fullmatch(recipe.device):
        raise RecipeError(f"{prefix}device is {recipe.device!r} but must be auto, cpu or cuda.")


def limits_of(cls: type) -> dict[str, Range]:
    """The ranges of a configuration's fields: of its bases, its own, and what a method states as
    ``limits``."""
    found: dict[str, Range] = {}
    for base in reversed(cls.__mro__):
        found |= LIMITS.get(base, {})
        found |= vars(base).get("limits", {})
    return found


def _check(name: str, number: float, low: float | None, high: float | None) -> None:
    if (low is None or number >= low) and (high is None or number <= high):
        return
    wanted = (
        f"at least {low:g}"
        if high is None
        else f"at most {high:g}"
        if low is None
        else f"{low:g} to {high:g}"
    )
    raise RecipeError(f"{name} is {number:g} but must be {wanted}.")
