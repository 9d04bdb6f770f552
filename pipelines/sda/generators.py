"""Train the two diffusion models that SDA needs, on a user's own labelled images."""

from __future__ import annotations

from diffadapt.systems.generators import Generators


def recipe() -> Generators:
    """Train a conditional DiT and an unconditional UNet on a folder of classes (--data); 64x64, a GPU is
    advised."""
    return Generators()


def digits() -> Generators:
    """The shipped small weights: trained on scikit-learn's handwritten digits, train split, minutes on a
    CPU."""
    from diffadapt.data.config import DataConfig
    from diffadapt.train.presets import DIGITS_DIT, DIGITS_UNET

    data = DataConfig(path="embedded:digits", split="train", image_size=16, channels=1)
    return Generators(data=data, conditional=DIGITS_DIT, unconditional=DIGITS_UNET)
