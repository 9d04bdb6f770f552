"""Guidance on the predicted clean image (x0) without the network's Jacobian: the training-free form of
Manifold Preserving Guided Diffusion without an autoencoder (He et al., ICLR 2024, algorithm 1), with DDA's
structural distance. No backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffadapt.core.ranges import NonNegative, Steps
from diffadapt.diffusion.few_calls import Solver, Stepped

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.lowpass import LowPass
    from diffadapt.diffusion.samplers import Guide


@dataclass(frozen=True)
class X0(Stepped):
    """x0 <- x0 - weight / sqrt(abar) grad_x0 || phi(x*) - phi(x0) ||_2 before every step, abar that of the
    level that is stepped to (the authors' scaling), with a norm for each image (theirs: for the batch)."""

    calls: Steps = 3
    solver: Solver = "ddim"
    weight: NonNegative = 1.0
    """Strength; the gradient is at most of length 1, as that of align.scale before the network."""

    def guide(self, target: torch.Tensor, lowpass: LowPass) -> Guide | None:
        import torch

        from diffadapt.diffusion.guidance import structural_distance

        def guide(x0: torch.Tensor, abar: float) -> torch.Tensor:
            with torch.enable_grad():
                free = x0.detach().requires_grad_(True)
                distance = structural_distance(target - lowpass(free), "image").sum()
                (gradient,) = torch.autograd.grad(distance, free)
            return x0 - self.weight / abar**0.5 * gradient

        return guide if self.weight else None
