"""Training settings for classifiers and diffusion models, with the paper's fine-tuning recipes by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.ranges import Between, Fraction, Natural, NonNegative, Positive
from diffadapt.data.config import TRAINING_CORRUPTIONS
from diffadapt.diffusion.aligners.config import Guidance


@dataclass(frozen=True)
class FitConfig:
    """Classifier training. The defaults are SDA's ResNet recipe (Table 7)."""

    epochs: Positive = 15
    batch_size: Positive = 512
    """Global batch: the sum over ``execution.train_workers`` workers and accumulation steps."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: NonNegative = 5e-4
    momentum: float = 0.9
    weight_decay: NonNegative = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["constant", "step", "cosine"] = "step"
    milestones: tuple[Positive, ...] = (10,)
    """Epochs at which the step schedule multiplies the rate by 0.1."""
    warmup_epochs: Natural = 0
    warmup_lr: NonNegative = 0.0
    min_lr: NonNegative = 0.0
    clip_norm: NonNegative | None = None
    label_smoothing: Fraction = 0.0
    augment: Literal["none", "shift", "resnet", "transformer"] = "resnet"
    """none; shift: random translation by up to an eighth; resnet: RandomResizedCrop (.08-1) and flip;
    transformer: the same bicubic with RandAugment n2 m9 mstd0.5 and RandomErasing .25."""
    flip: bool = True
    drop_path: Fraction = 0.0
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    seed: int = 0
    micro_batch: Natural = execution(0)
    """Images a device sees at once; 0: batch_size / workers. Smaller values accumulate gradients."""
    checkpoint_every: Positive = execution(200)
    """Steps between checkpoints."""


@dataclass(frozen=True)
class DiffusionFitConfig:
    """Training of a small or large diffusion model on a user's own images."""

    architecture: Literal["dit", "unet"] = "unet"
    steps: Positive = 100_000
    batch_size: Positive = 128
    lr: NonNegative = 1e-4
    weight_decay: NonNegative = 0.0
    warmup_steps: Natural = 100
    ema_decay: Fraction = 0.9999
    clip_norm: NonNegative = 1.0
    label_dropout: Fraction = 0.1
    """Probability that a label becomes the null class (conditional models)."""
    flip: bool = False
    channels: tuple[Positive, ...] = (128, 256, 256)
    """UNet: block widths; DiT: (heads, head width, layers)."""
    layers_per_block: Positive = 2
    attention_levels: tuple[Natural, ...] = (1, 2)
    """UNet: levels (0 = full resolution) that have attention."""
    patch_size: Positive = 2
    space_to_depth: Positive = 1
    """Fold s x s pixels into channels before the network: a fixed orthonormal change of basis that makes it
    s^2 cheaper."""
    native_size: Natural = 0
    """Train at this size and upsample what is sampled to ``image_size`` with a fixed filter; 0: the image
    size."""
    learn_sigma: bool = False
    latent: str | None = None
    """A folder or hub id with an AutoencoderKL: train in its latent space (DiT only)."""
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    save_precision: Literal["fp32", "fp16"] = "fp32"
    sample_every: Natural = execution(5_000)
    """Steps between sample grids in TensorBoard; 0: none."""
    seed: int = 0
    checkpoint_every: Positive = execution(1_000)
    micro_batch: Natural = execution(0)


@dataclass(frozen=True)
class DistilConfig:
    """Training of a student that gives an aligner's images in a few calls (train/student), on source and
    synthetic images, corrupted, and what the aligner makes of them."""

    teacher: Guidance = "dda"
    """The aligner that is reproduced, with the other settings of ``align``."""
    calls: Annotated[int, Between(1, 4)] = 1
    """Network calls that it is trained for; it can be run with fewer."""
    corruptions: tuple[str, ...] = TRAINING_CORRUPTIONS
    """Of which one is drawn for each image; types that are tested on are refused."""
    severities: tuple[Annotated[int, Between(1, 5)], ...] = (1, 2, 3, 4, 5)
    """Of which one is drawn with it."""
    images: Natural = 20_000
    """Images of each set (source, synthetic) that are corrupted for it, about; 0: all."""
    copies: Positive = 1
    """Corrupted copies of each image."""
    steps: Positive = 20_000
    batch_size: Positive = 64
    lr: NonNegative = 1e-4
    weight_decay: NonNegative = 0.0
    warmup_steps: Natural = 100
    """Afterwards the rate falls to 0 along a cosine."""
    ema_decay: Fraction = 0.999
    clip_norm: NonNegative = 1.0
    loss: Literal["l2", "l1"] = "l2"
    """Squared error (Salimans and Ho 2022), or absolute (sharper, the median instead of the mean)."""
    flip: bool = False
    precision: Precision = by_device("tf32")
    save_precision: Literal["fp32", "fp16"] = "fp32"
    checkpoint_every: Positive = execution(1_000)
    micro_batch: Natural = execution(0)


RESNET_PAPER = FitConfig()
RESNET_CODE = FitConfig(epochs=30, milestones=(10, 20, 25), micro_batch=64)
"""``micro_batch``: what one of the authors' eight devices sees, and so its batch norm's statistics."""
_TRANSFORMER = FitConfig(
    epochs=15,
    optimizer="adamw",
    lr=2e-5,
    weight_decay=1e-8,
    decay_norm_and_bias=False,
    batch_size=1024,
    schedule="cosine",
    warmup_epochs=5,
    clip_norm=5.0,
    label_smoothing=0.1,
    augment="transformer",
    micro_batch=128,  # no batch statistics, so that it changes nothing but the memory
)
_TRANSFORMER_CODE = replace(
    _TRANSFORMER,
    epochs=30,
    warmup_lr=4e-13,  # their LinearLR begins at start_factor 2e-8 times the rate of 2e-5
    min_lr=2e-7,
)
SWIN_PAPER = replace(_TRANSFORMER, drop_path=0.2)
SWIN_CODE = replace(_TRANSFORMER_CODE, drop_path=0.2)
CONVNEXT_T_PAPER = replace(_TRANSFORMER, drop_path=0.1)
CONVNEXT_T_CODE = replace(_TRANSFORMER_CODE, drop_path=0.1)
CONVNEXT_B_PAPER = replace(_TRANSFORMER, drop_path=0.5)
CONVNEXT_B_CODE = replace(_TRANSFORMER_CODE, drop_path=0.5)
