"""The denoising loop with structural guidance: what DDA, SDA's alignment and DiffPure have in common (SDA
section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from diffadapt.diffusion.lowpass import LowPass
from diffadapt.diffusion.samplers import Network, NoiseSource, network_time, noise_source
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import ancestral_step, q_sample

if TYPE_CHECKING:
    from diffadapt.diffusion.aligners.base import Run, Tools
    from diffadapt.diffusion.noise import ItemNoise

NormMode = Literal["image", "batch"]


@dataclass
class Trace:
    """What happened at each step, in the order of the steps; filled by :func:`guided_loop` when it is given
    one."""

    samples: list[torch.Tensor] = field(default_factory=list)
    """x after the step, (B, C, H, W)."""
    norms: list[torch.Tensor] = field(default_factory=list)
    """|| phi(x*) - phi(x0) ||_2: (B,) with a norm for each image, () with one for the batch."""
    gradients: list[torch.Tensor] = field(default_factory=list)
    """d norm / d x, (B, C, H, W)."""
    pred_xstarts: list[torch.Tensor] = field(default_factory=list)
    """The clamped x0, (B, C, H, W)."""


class Guidance(NamedTuple):
    """One step's structural distance and its gradient."""

    norm: torch.Tensor
    gradient: torch.Tensor


def structural_distance(difference: torch.Tensor, mode: NormMode) -> torch.Tensor:
    """The 2-norm of phi(x*) - phi(x0), (B, C, H, W): one for each image (B,), or one Frobenius norm () over
    the batch."""
    return torch.linalg.vector_norm(
        difference.flatten(1) if mode == "image" else difference.flatten(), dim=-1
    )


@dataclass(frozen=True)
class GuidedSteps:
    """How :func:`guided_loop` denoises."""

    start: int
    """N, the number of denoising steps, 1 <= N <= length of the schedule."""
    scale: float = 0.0
    """Guidance strength."""
    lowpass: LowPass | None = None
    """phi; None turns guidance off, and then no gradient is computed."""
    norm: NormMode = "image"
    """``image``: results do not depend on batch mates; ``batch``: the authors' coupled form."""
    noise_index: int | None = None
    """The index noised to; None: N, clipped to the schedule (N = 50 is noised to abar_50 and its first
    network call is at index 49: the published method)."""
    gradient_factor: float = 1.0
    """The norm is multiplied by it before, and the gradient divided by it after, backpropagation (keeps small
    float16 gradients from vanishing)."""
    stop: int = 0
    """The last index to run."""


def guided_loop(
    network: Network,
    x_star: torch.Tensor,
    start_noise: torch.Tensor,
    step_noise: NoiseSource,
    schedule: Schedule,
    settings: GuidedSteps,
    trace: Trace | None = None,
) -> torch.Tensor:
    """Noise ``x_star`` to index N (``settings.start``) and denoise it from N - 1 down to 0, held to its low
    frequencies.

    At each index: x0 = clamp(predicted clean image of x), s = ancestral step of x,
    g = grad_x || phi(x*) - phi(x0(x)) ||_2, x <- s - scale g. The norm is not squared; the gradient goes
    through the network and the clamp, is not weighted by the variance, and is applied at index 0 too.

    Args:
        network: (x, t) -> model output; differentiable in x when guided.
        x_star: the images to follow, float32 (B, C, H, W) in [-1, 1].
        start_noise: standard normal, (B, C, H, W).
        step_noise: the further draws, one for each index but 0, in the order of the steps.
        schedule: already respaced.
        settings: how many steps, and how they are guided.
        trace: filled with every step's values.

    Returns the denoised images, float32 (B, C, H, W), not clamped. Raises ValueError where the schedule does
    not have ``start`` steps.
    """
    start, lowpass = settings.start, settings.lowpass
    if not 1 <= start <= len(schedule):
        raise ValueError(f"start {start} is outside 1..{len(schedule)}")
    noised_to = settings.noise_index
    if noised_to is None:
        noised_to = min(start, len(schedule) - 1)
    draw = noise_source(step_noise)
    x = q_sample(schedule, noised_to, x_star, start_noise)
    target = lowpass(x_star) if lowpass is not None else None
    for i in reversed(range(settings.stop, start)):
        x = x.detach().requires_grad_(lowpass is not None)
        with torch.set_grad_enabled(lowpass is not None):
            model_out = network(x, network_time(schedule, i, x))
            step = ancestral_step(schedule, i, x, model_out, draw() if i > 0 else None, clip=True)
            if lowpass is not None:
                distance = structural_distance(target - lowpass(step.pred_xstart), settings.norm)
                (gradient,) = torch.autograd.grad(distance.sum() * settings.gradient_factor, x)
                guide = Guidance(distance.detach(), gradient.float() / settings.gradient_factor)
        with torch.no_grad():
            x = step.sample.detach()
            if lowpass is not None:
                x = x - settings.scale * guide.gradient
        if trace is not None:
            trace.samples.append(x.clone())
            trace.pred_xstarts.append(step.pred_xstart.detach())
            if lowpass is not None:
                trace.norms.append(guide.norm)
                trace.gradients.append(guide.gradient)
    return x


def denoiser(tools: Tools, lowpass: LowPass | None, norm: NormMode = "image") -> Run:
    """:func:`guided_loop` as an aligner runs it, with the settings of ``tools.config``."""
    c = tools.config
    steps = GuidedSteps(
        start=c.start,
        scale=c.scale,
        lowpass=lowpass,
        norm=norm,
        noise_index=c.start - 1 if c.noise_at_first_step else c.start,
        gradient_factor=tools.gradient_factor,
    )

    def run(x_star: torch.Tensor, noise: ItemNoise, seeds: Sequence[int]) -> torch.Tensor:
        return guided_loop(tools.network.eps_model, x_star, noise.draw(), noise.draw, tools.schedule, steps)

    return run
