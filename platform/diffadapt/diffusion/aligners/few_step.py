"""A few calls without guidance, by DDIM (Song et al. 2021), DPM-Solver++(2M) (Lu et al. 2022) or ancestral
steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffadapt.core.ranges import Fraction
from diffadapt.diffusion.few_calls import Stepped, mixed

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.lowpass import LowPass
    from diffadapt.diffusion.samplers import Guide


@dataclass(frozen=True)
class FewStep(Stepped):
    """From ``level`` to the clean image in ``calls`` calls."""

    weight: Fraction = 0.0
    """How far the predicted x0's low frequencies become the image's at every call: 0 not at all, 1 wholly."""

    def guide(self, target: torch.Tensor, lowpass: LowPass) -> Guide | None:
        return mixed(self.weight, target, lowpass)
