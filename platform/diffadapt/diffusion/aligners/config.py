"""Settings of alignment and projection with an unconditional diffusion model (SDA sections 4.2-4.3, DDA,
DiffPure, GDA)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from diffadapt.core.config import Precision, by_device, execution, to_dict
from diffadapt.core.discover import extended
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import Between, Positive, Steps
from diffadapt.diffusion.aligners.base import ALIGNERS, Aligner, Calls
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
    Adaptation. In a few network calls, from a level of their own: x0 (guidance on the predicted clean image,
    no backward pass), one-step, few-step; diffpure: unguided, at its published level; distilled: one to four
    calls of a student that reproduces another aligner."""
    respacing: Steps = 100
    """Sampling steps that the 1000 training steps are thinned to."""
    start: Positive = 50
    """N: x is noised to respaced index N (abar_N), and denoised from index N - 1 down (the published
    off-by-one)."""
    noise_at_first_step: bool = False
    """Noise to the index of the first denoising step instead (DiffPure: start from abar_149, then i =
    149..0). False is as published; with few steps (respacing 10) the gap between the two levels is wide."""
    scale: float = SCALE_PER_IMAGE
    factor: Positive = 4
    """D of the low-pass operator phi = U Dn."""
    precision: Precision = by_device("tf32")
    """auto: fp32, on CUDA tf32."""
    storage: Literal["png", "jpeg75"] = "png"
    """How images are stored: lossless, or JPEG quality 75 4:2:0 as the authors store projections."""
    batch_size: Positive = execution(10)
    """Images at a time: ten of ADM-256 take 60 GB under guidance in float32 (counted), half of it in half
    precision. In dda-batch mode the norm couples the images of a batch, so there ``coupled_batch``
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

    @property
    def network(self) -> str:
        """The weights that images go through: the aligner's student, or the unconditional model; ``train``:
        an input."""
        mine: Any = self.aligner
        return mine.student if mine.needs_student else self.weights

    @property
    def network_role(self) -> tuple[str, str]:
        """What a recipe calls that network when it trains it, and :attr:`network`."""
        return ("student" if self.aligner.needs_student else "unconditional"), self.network

    def through(self, weights: str) -> Any:
        """The same with another :attr:`network`."""
        if not self.aligner.needs_student:
            return replace(self, weights=weights)
        name = self.guidance.replace("-", "_")
        return replace(self, **{name: replace(self.aligner, student=weights)})  # type: ignore[arg-type]

    @property
    def cost(self) -> Calls | None:
        """Network calls an image; None where the aligner does not say."""
        return self.aligner.cost(self)

    def at(self, level: int) -> Any:
        """The same with a chosen ``level`` of the aligner's own."""
        name = self.guidance.replace("-", "_")
        return replace(self, **{name: replace(self.aligner, level=level)})  # type: ignore[arg-type]

    @property
    def chooses(self) -> bool:
        """Whether its level is still to be chosen."""
        return getattr(self.aligner, "level", None) == "auto"

    def check(self) -> None:
        """Raise RecipeError for steps that do not fit together."""
        top = self.respacing if self.noise_at_first_step else self.respacing - 1
        if "start" not in self.aligner.unread and not 1 <= self.start <= top:
            raise RecipeError(
                f"align.start is {self.start} but must be 1 to {top} at respacing {self.respacing}: it is the"
                " step that images are noised to."
            )
        cost, level = self.cost, getattr(self.aligner, "level", None)
        if isinstance(level, int) and cost is not None and cost.forward > level + 1:
            raise RecipeError(
                f"align.{self.guidance}.calls is {cost.forward} but must be 1 to {level + 1} at level"
                f" {level}: so many steps lie between it and the clean image."
            )

    def identity(self) -> dict[str, Any]:
        """Identity fields but the weights' place, without other aligners' settings and what the aligner does
        not look at; ``coupled_batch`` only where batches count."""
        mine, values = self.aligner, to_dict(self, identity_only=True)
        for name in ("weights", *mine.unread):
            values.pop(name)
        if not mine.coupled:
            values.pop("coupled_batch")
        for f in fields(self):
            if isinstance(getattr(self, f.name), Aligner):
                values.pop(f.name, None)
        if fields(mine):
            own = to_dict(mine, identity_only=True)
            own.pop("student" if mine.needs_student else "", None)
            values[self.guidance.replace("-", "_")] = own
        return values | ({"version": mine.version} if mine.version > 1 else {})


@dataclass(frozen=True)
class LevelConfig:
    """How a level that is 'auto' is chosen without labels (stages/choose_level): by what the source
    classifier predicts on a sample of target images, projected at every level."""

    levels: tuple[Annotated[int, Between(0, 999)], ...] = (25, 50, 100, 150, 200, 250, 300, 400)
    """Training steps that are tried."""
    images: Positive = 150
    """How many target images, as many of every group of them (a corruption and severity)."""
    rule: Literal["corrc", "im", "bnm", "ensv", "entropy", "mano"] = "corrc"
    """Which label-free score decides (metrics/validators); corrc: sure predictions of classes that are
    about as frequent (Tu et al. 2022)."""


AlignConfig: Any = extended("AlignConfig", AlignSettings, ALIGNERS.all(), __name__, later=True)


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
