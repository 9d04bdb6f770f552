"""Unguided noise and denoise (DiffPure, Nie et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.diffusion.aligners.base import Aligner, Calls, Tools

if TYPE_CHECKING:
    from diffadapt.diffusion.aligners.base import Run


@dataclass(frozen=True)
class Unguided(Aligner):
    """No guidance, and so no gradient."""

    def cost(self, config: Any) -> Calls:
        return Calls(config.start)

    def draws(self, start: int) -> int:
        return start

    def open(self, tools: Tools) -> Run:
        from diffadapt.diffusion.guidance import denoiser

        return denoiser(tools, None)
