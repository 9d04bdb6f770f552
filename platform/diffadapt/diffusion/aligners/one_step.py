"""One call of the network: its prediction of the clean image (x0) from the image noised to a level, as
denoised smoothing takes it (Carlini et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffadapt.core.ranges import Fraction
from diffadapt.diffusion.few_calls import Few, mixed

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.lowpass import LowPass
    from diffadapt.diffusion.samplers import Guide


@dataclass(frozen=True)
class OneStep(Few):
    """x0 at ``level``, by one call."""

    weight: Fraction = 0.0
    """How far its low frequencies become the image's: 0 not at all, 1 wholly."""

    def guide(self, target: torch.Tensor, lowpass: LowPass) -> Guide | None:
        return mixed(self.weight, target, lowpass)
