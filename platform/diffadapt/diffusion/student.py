"""A student: a network that gives an aligner's image in a few calls. It sees the noised image and, beside it,
the image itself, which the aligner is held to by guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.diffusion.network import Precision, UnconditionalNetwork, open_network
from diffadapt.diffusion.samplers import Network, ddim_step, network_time
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import predict_xstart, q_sample


class StudentNetwork(UnconditionalNetwork):
    """A frozen student: :meth:`eps_model` takes (B, 2C, H, W), the noised image and the image."""

    sees: ClassVar[int] = 2
    levels: tuple[int, ...] = ()
    """Training steps of its calls, falling; the image is noised to the first."""


def load_student(
    weights: str, device: torch.device | str = "cpu", precision: Precision = "fp32", compile: bool = False
) -> StudentNetwork:
    """The student at ``weights``, a folder that a training wrote. Raises WeightsError for any other."""
    network, details = open_network(StudentNetwork, weights, device, precision, compile)
    network.levels = levels_of(weights, details)
    return network


def levels_of(weights: str, details: dict[str, Any]) -> tuple[int, ...]:
    """The levels that a student's diffadapt.json names. Raises WeightsError where it has none."""
    try:
        levels = tuple(int(level) for level in details["student"]["levels"])
    except (KeyError, TypeError, ValueError):
        levels = ()
    if not levels:
        raise WeightsError(
            f"The network {weights!r} is no student of an aligner: give the folder of one that was trained"
            " (`diffadapt export <run> --what student --out <folder>`), or leave align.distilled.student at"
            " 'train'."
        )
    return levels


def demand_calls(levels: Sequence[int], calls: int) -> None:
    """Raise RecipeError where a student of these levels cannot be run with so many calls."""
    if len(levels) < calls:
        raise RecipeError(
            f"align.distilled.calls is {calls} but the student was trained for {len(levels)}: give at most"
            " that, or train one with more (distil.calls)."
        )


def student_levels(schedule: Schedule, top: int, calls: int) -> tuple[int, ...]:
    """The training steps of ``calls`` calls: evenly from the level of index ``top`` of the teacher's respaced
    ``schedule`` down, the clean image left out."""
    first = int(schedule.timesteps[top])
    return tuple(max(1, round(first * (calls - k) / calls)) for k in range(calls))


def student_steps(
    network: Network, schedule: Schedule, levels: Sequence[int], images: torch.Tensor, noise: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The predicted clean image (B, C, H, W), not clamped, after each call.

    Between two calls is a deterministic DDIM step (Song et al. 2021, equation 12) with the clamped
    prediction, through which no gradient goes. ``schedule``: all training steps; ``images``: in [-1, 1];
    ``noise``: standard normal, of their shape.
    """
    x = q_sample(schedule, levels[0], images, noise)
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        out = network(torch.cat([x, images], dim=1), network_time(schedule, level, x))
        x0 = predict_xstart(schedule, level, x, out, clip=False)
        yield x0
        if after is not None:
            to = float(schedule.alphas_cumprod[after])
            x = ddim_step(schedule, level, x, x0.detach().clamp(-1.0, 1.0), to)
