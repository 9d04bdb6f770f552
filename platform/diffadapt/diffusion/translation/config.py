"""Settings of the image transfer (ZoDi section 3.2) and of its quality control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from diffadapt.core.config import Precision, by_device, execution
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.ranges import Between, Fraction, Natural, NonNegative, Positive, Steps


class Domain(NamedTuple):
    """A target domain in words, and how far its images are taken from the source's."""

    prompt: str
    strength: float


DOMAINS: Mapping[str, Domain] = {
    "night": Domain("driving at night", 0.90),
    "snow": Domain("driving in snow", 0.65),
    "rain": Domain("driving under rain", 0.65),
    "fog": Domain("driving in fog", 0.60),
    "game": Domain("driving in a game", 0.60),
}
"""The authors' prompts and strengths."""


@dataclass(frozen=True)
class TransferConfig:
    """Layout-preserving transfer of labelled scenes to a domain that is given in words."""

    weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A Stable Diffusion 1.5-family pipeline (folder or hub id), ``embedded:streets``, or ``train`` (a small
    one on the source scenes)."""
    variant: str = "auto"
    """Which of a pipeline's weight files, where it has several. auto: 'non_ema' where there are such files
    (Stable Diffusion 1.5: ZoDi's authors load the weights that were not averaged), else the plain ones;
    'fp16' or another name: files of that name; empty: the plain ones (Stable Diffusion 1.5: the averages)."""
    controlnet: str = "lllyasviel/control_v11p_sd15_seg"
    """A ControlNet folder or hub id; empty: the ``controlnet`` that the weights' own folder has."""
    method: Literal["stochastic", "edit_friendly", "controlnet_img2img", "img2img", "layout"] = "stochastic"
    """stochastic: ZoDi's stochastic inversion; edit_friendly: DDPM inversion that reconstructs;
    controlnet_img2img: noise instead of an inversion, the ControlNet as ever; img2img: noise, and no
    ControlNet; layout: from the label map without the source image."""
    aligned: bool = False
    """stochastic: encode to the first decode level itself; False: 49 timesteps above it, as the authors' code
    does."""
    domain: str = "night"
    """A name of DOMAINS, or your own with ``prompt`` and ``strength``."""
    prompt: str = ""
    """Empty: the domain's."""
    strength: Annotated[float, Between(0.001, 1)] | None = None
    """Fraction of the schedule that an image is taken back, in (0, 1]; None: the domain's."""
    source_prompt: str = "driving in the daytime"
    """What the source shows (edit_friendly inverts under it)."""
    suffix: str = ", best quality"
    negative_prompt: str = "lower quality, worst quality"
    steps: Steps = 20
    guidance: NonNegative = 9.0
    eta: Fraction = 1.0
    control_scale: NonNegative = 1.0
    """Weight of the ControlNet; 0: it has no say (stochastic inversion without a ControlNet)."""
    palette: Literal["cityscapes", "ade20k", "own"] = "cityscapes"
    """Colours of the conditioning map. cityscapes: the raw colour map where the data have one (the authors);
    ade20k: those that the published ControlNet was trained on; own: the class table's."""
    profile: Literal["", "lcm"] = ""
    """lcm: the named fast profile (latent consistency: LCM scheduler, 4 steps, guidance 1.5, ``lora`` if
    given), never parity."""
    lora: str = ""
    """A LoRA to load on top, e.g. latent-consistency/lcm-lora-sdv1-5 (needs the package peft)."""
    size: Positive = 512
    """Short side of the generated image in pixels."""
    multiple: Positive = 64
    """Both sides are rounded to it."""
    precision: Precision = by_device("bf16")
    """auto: fp32, on CUDA bf16."""
    images_per_shard: Natural = 32
    """At most so many images of one source shard in a shard; 0: as the source's shards."""
    batch_size: Positive = execution(4)
    compile: bool | None = execution(None)
    """torch.compile; None: on CUDA."""

    @property
    def resolved(self) -> Domain:
        """The domain's prompt and strength with this configuration's own in their place. Raises RecipeError
        for an unknown domain."""
        known = DOMAINS.get(self.domain)
        if known is None and not (self.prompt and self.strength is not None):
            raise RecipeError(
                f"The domain {self.domain!r} is not known: give transfer.prompt and transfer.strength for it,"
                f" or one of {', '.join(DOMAINS)}.{suggest(self.domain, DOMAINS)}"
            )
        strength = self.strength if self.strength is not None else known.strength  # type: ignore[union-attr]
        if not 0 < strength <= 1:
            raise RecipeError(f"transfer.strength is {strength:g} but must be above 0 and at most 1.")
        return Domain(self.prompt or known.prompt, strength)  # type: ignore[union-attr]


@dataclass(frozen=True)
class QualityConfig:
    """When a transferred image is accepted, and what is tried otherwise. A threshold of 0 measures nothing it
    need not and refuses nothing."""

    consistency: NonNegative = 0.0
    """Least mean IoU of the source model's segmentation with the labels, relative to that on the original
    image."""
    edges: Annotated[float, Between(-1, 1)] = 0.0
    """Least similarity of edges (correlation of gradient magnitudes), -1 to 1; 0: measured, never refused."""
    luminance: tuple[Annotated[float, Between(0, 255)], Annotated[float, Between(0, 255)]] = (0.0, 255.0)
    """Range of the mean luma, 0 to 255."""
    clip: str = ""
    """A CLIP folder or hub id: scores the probability of the target's prompt against the source's."""
    clip_score: Fraction = 0.0
    """Least such probability."""
    retries: Annotated[int, Between(0, 100)] = 0
    """Further attempts for a refused image; then it is left out of training."""
    retry: Literal["seed", "strength"] = "seed"
    """What changes: another seed, or another seed and ``strength_step`` less strength."""
    strength_step: Fraction = 0.1

    @property
    def needs_model(self) -> bool:
        """Whether the source model is asked."""
        return self.consistency > 0
