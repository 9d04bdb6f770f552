"""Settings of alignment and projection with an unconditional diffusion model (SDA sections 4.2-4.3, DDA,
DiffPure, GDA)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from diffadapt.core.config import Precision, by_device, execution, to_dict
from diffadapt.core.discover import extended
from diffadapt.core.ranges import Positive, Steps
from diffadapt.diffusion.aligners.base import ALIGNERS, Aligner
from diffadapt.diffusion.aligners.gda import GDAConfig

SCALE_PER_IMAGE = 1.8973665961010275
"""6 / sqrt(10): the strength an image feels in the authors' batch-coupled norm at their scale 6 and batch 10.
"""


Guidance: Any = Literal[tuple(ALIGNERS.names())]


@dataclass(frozen=True)
class AlignSettings:
    """What every aligner knows; each aligner's own settings follow under its name."""

    weights: str = "adm-256-uncond"
    """A folder or hub id with a diffusers UNet2DModel (optionally under unet/), ``embedded:digits-unet``, or
    ``train``."""
    guidance: Guidance = "dda"
    """dda: structural guidance with a norm for each image; dda-batch: the authors' one norm over the batch
    (parity); none: unguided noise and denoise; gda: the publicly described form of Generalized Diffusion
    Adaptation."""
    respacing: Steps = 100
    """Sampling steps that the 1000 training steps are thinned to."""
    start: Positive = 50
    """N: x is noised to respaced index N (abar_N), and denoised from index N - 1 down (the published
    off-by-one)."""
    noise_at_first_step: bool = False
    """Noise to the index of the first denoising step instead (DiffPure: start from abar_149, then i =
    149..0)."""
    scale: float = SCALE_PER_IMAGE
    factor: Positive = 4
    """D of the low-pass operator phi = U Dn."""
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    storage: Literal["png", "jpeg75"] = "png"
    """How images are stored: lossless, or JPEG quality 75 4:2:0 as the authors store projections."""
    batch_size: Positive = execution(32)
    """Images at a time. In dda-batch mode the norm couples the images of a batch, so there ``coupled_batch``
    rules."""
    coupled_batch: Positive = 10
    compile: bool | None = execution(None)
    """torch.compile; None: on CUDA."""
    gda: GDAConfig = GDAConfig()
    """Read in gda mode only."""

    @property
    def aligner(self) -> Aligner:
        """The aligner that ``guidance`` names, with its settings."""
        cls = ALIGNERS.load(self.guidance)
        return getattr(self, self.guidance.replace("-", "_")) if fields(cls) else cls()

    def identity(self) -> dict[str, Any]:
        """Identity fields but the weights' place, without other aligners' settings; ``coupled_batch`` only
        where batches count."""
        mine, values = self.aligner, to_dict(self, identity_only=True)
        values.pop("weights")
        if not mine.coupled:
            values.pop("coupled_batch")
        for f in fields(self):
            if isinstance(getattr(self, f.name), Aligner) and getattr(self, f.name) is not mine:
                values.pop(f.name)
        return values | ({"version": mine.version} if mine.version > 1 else {})


AlignConfig: Any = extended("AlignConfig", AlignSettings, ALIGNERS.all(), __name__)


def dda_published(weights: str = "adm-256-uncond", **changes: object) -> AlignConfig:
    """DDA to the authors' last flag: scale 6 with one norm over batches of 10, projections stored as JPEG
    75."""
    defaults: dict = dict(
        weights=weights, guidance="dda-batch", scale=6.0, coupled_batch=10, storage="jpeg75"
    )
    return AlignConfig(**{**defaults, **changes})


def diffpure(weights: str = "adm-256-uncond", **changes: object) -> AlignConfig:
    """DiffPure at its published setting: unguided, t = 150 of 1000 steps, all of them taken."""
    defaults: dict = dict(
        weights=weights, guidance="none", respacing=1000, start=150, noise_at_first_step=True, scale=0.0
    )
    return AlignConfig(**{**defaults, **changes})
