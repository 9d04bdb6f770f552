"""Unguided noise and denoise (DiffPure, Nie et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.core.flops import Mode
from diffadapt.diffusion.aligners.base import Aligner, Tools

if TYPE_CHECKING:
    from diffadapt.diffusion.aligners.base import Run


@dataclass(frozen=True)
class Unguided(Aligner):
    """No guidance, and so no gradient."""

    def draws(self, start: int) -> int:
        return start

    def passes(self, config: Any) -> Mapping[Mode, float]:
        return {"forward": config.start}

    def open(self, tools: Tools) -> Run:
        from diffadapt.diffusion.guidance import denoiser

        return denoiser(tools, None)
