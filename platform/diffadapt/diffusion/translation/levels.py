"""Which noise levels a transfer visits, as training steps of the diffusion process. Knows no torch, so that
planning can ask."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.translation.config import TransferConfig

LCM_STEPS, LCM_GUIDANCE = 4, 1.5
_ORIGINAL_LCM_STEPS = 50
"""Steps of the sampler that latent consistency models were distilled from (Luo et al. 2023)."""
_EPSILON = 1e-6
"""20 times 0.65 must count as 13 in binary fractions too."""


@dataclass(frozen=True)
class Levels:
    """Training steps t, 0 (clean) to ``num_train_timesteps - 1`` (noise)."""

    encode: int
    """To which the image is noised."""
    decode: tuple[int, ...]
    """Visited from noisy to clean, descending, at least one."""


def steps_and_guidance(config: TransferConfig) -> tuple[int, float]:
    """Steps of the whole schedule and guidance in use: under the profile 'lcm' a field left at its default
    takes the profile's value."""
    default = TransferConfig()
    if config.profile != "lcm":
        return config.steps, config.guidance
    return (
        LCM_STEPS if config.steps == default.steps else config.steps,
        LCM_GUIDANCE if config.guidance == default.guidance else config.guidance,
    )


def ddim_timesteps(steps: int, total: int = 1000) -> tuple[int, ...]:
    """``steps`` training steps in ascending order, total // steps apart, from 1: {1, 51, ..., 951} for 20 of
    1000.

    Raises RecipeError unless 1 <= steps <= total.
    """
    if not 1 <= steps <= total:
        raise RecipeError(
            f"transfer.steps is {steps}, but the weights' diffusion process has {total} steps: use 1 to"
            f" {total}."
        )
    stride = total // steps
    return tuple(min(i * stride + 1, total - 1) if stride > 1 else i for i in range(steps))


def transfer_levels(config: TransferConfig, strength: float, total: int = 1000) -> Levels:
    """The levels of a transfer of ``strength`` in (0, 1] (``layout`` begins at pure noise: all steps,
    whatever the strength).

    stochastic: encodes to t = int(total * strength), which lies 49 training steps above the first decode
    level (ZoDi's authors' code), or to that level itself where ``config.aligned`` is set; all other methods
    begin at the first decode level. Raises RecipeError for a strength out of range, and for one that leaves
    no step to decode.
    """
    steps, _ = steps_and_guidance(config)
    if config.method == "layout":
        strength = 1.0
    if not 0 < strength <= 1:
        raise RecipeError(
            f"A transfer's strength must be above 0 and at most 1, not {strength:g}: set transfer.strength."
        )
    decode = (
        _lcm_timesteps(steps, strength, total)
        if config.profile == "lcm"
        else ddim_timesteps(steps, total)[: _floor(steps * strength)][::-1]
    )
    if not decode:
        raise RecipeError(
            f"A transfer of strength {strength:g} in {steps} steps has no step to take: raise"
            f" transfer.strength to at least {1 / steps:g}, or transfer.steps."
        )
    if config.method != "stochastic" or config.aligned or config.profile == "lcm":
        return Levels(decode[0], decode)
    return Levels(max(min(_floor(total * strength), total - 1), decode[0]), decode)


def _lcm_timesteps(steps: int, strength: float, total: int) -> tuple[int, ...]:
    """``steps`` of the first ``strength`` share of 50 evenly spaced training steps, descending (LCM's
    multistep sampling)."""
    count = _floor(_ORIGINAL_LCM_STEPS * strength)
    if steps > count:
        raise RecipeError(
            f"The profile 'lcm' has {count} noise levels at strength {strength:g}, fewer than transfer.steps"
            f" = {steps}: take fewer steps, or more strength."
        )
    stride = total // _ORIGINAL_LCM_STEPS
    descending = [k * stride - 1 for k in range(count, 0, -1)]
    return tuple(descending[i * count // steps] for i in range(steps))


def _floor(value: float) -> int:
    return int(value + _EPSILON)
