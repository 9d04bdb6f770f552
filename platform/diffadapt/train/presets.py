"""Training settings by name for the data that the project ships with."""

from __future__ import annotations

from diffadapt.train.config import DiffusionFitConfig

DIGITS_DIT = DiffusionFitConfig(
    architecture="dit",
    steps=1000,
    batch_size=128,
    lr=2e-3,
    ema_decay=0.99,
    channels=(4, 16, 4),
    patch_size=2,
    native_size=8,
    save_precision="fp16",
    sample_every=250,
    checkpoint_every=100,
)
"""The class-conditional generator of 16x16 digits, at their native 8x8 (329k parameters)."""

DIGITS_UNET = DiffusionFitConfig(
    architecture="unet",
    steps=2400,
    batch_size=128,
    lr=2e-3,
    ema_decay=0.99,
    channels=(24, 40),
    layers_per_block=1,
    attention_levels=(1,),
    space_to_depth=2,
    save_precision="fp16",
    sample_every=200,
    checkpoint_every=100,
)
"""The unconditional network of 16x16 digits for alignment, on 2x2 pixels folded into channels (362k
parameters)."""
