"""Structural guidance with a norm for each image (DDA, Gao et al. 2023; SDA sections 4.2 and 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.aligners.base import Aligner, Calls, Tools

if TYPE_CHECKING:
    from diffadapt.diffusion.aligners.base import Run


@dataclass(frozen=True)
class Dda(Aligner):
    """Denoising is held to the low frequencies of the image; an image does not depend on its batch mates."""

    norm: ClassVar[Literal["image", "batch"]] = "image"

    def cost(self, config: Any) -> Calls:
        return Calls(config.start, config.start)

    def draws(self, start: int) -> int:
        return start

    def open(self, tools: Tools) -> Run:
        from diffadapt.diffusion.guidance import denoiser
        from diffadapt.diffusion.lowpass import LowPass

        factor, side = tools.config.factor, tools.network.image_size
        if not 1 <= factor <= side:
            raise RecipeError(f"align.factor is {factor} but must be 1 to the image size, {side}.")
        return denoiser(tools, LowPass(factor), self.norm)
