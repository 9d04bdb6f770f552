"""One step of the diffusion process: noising, reading x0 off the network's output, and the ancestral reverse
step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from diffadapt.diffusion.schedule import Schedule

Index = int | torch.Tensor
"""A step index shared by the batch, or one for each image: an integer tensor (B,)."""


class Step(NamedTuple):
    """What a reverse step gives; every tensor is float32 (B, C, H, W)."""

    sample: torch.Tensor
    pred_xstart: torch.Tensor
    mean: torch.Tensor
    log_variance: torch.Tensor


def table(values: np.ndarray, index: Index, like: torch.Tensor) -> torch.Tensor | float:
    """``values[index]``: a Python float for a shared index, else a float32 tensor (B, 1, 1, 1) on ``like``'s
    device."""
    if isinstance(index, int):
        return float(values[index])
    # The small table travels to the index, not the index to the host, which would wait for the device.
    picked = torch.as_tensor(values, dtype=torch.float32).to(like.device, non_blocking=True)[
        index.to(like.device)
    ]
    return picked.view(-1, *([1] * (like.ndim - 1)))


def q_sample(schedule: Schedule, index: Index, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """x_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) noise, in the shape of ``x0``."""
    abar = schedule.alphas_cumprod
    return table(np.sqrt(abar), index, x0) * x0 + table(np.sqrt(1.0 - abar), index, x0) * noise


def split_output(model_out: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A network output (B, C or 2C, H, W) as float32 prediction (B, C, H, W) and learned variance values, or
    None."""
    model_out = model_out.float()
    if model_out.shape[1] == 2 * channels:
        prediction, variance = model_out.split(channels, dim=1)
        return prediction, variance
    if model_out.shape[1] != channels:
        raise ValueError(
            f"a network on {channels} channels returned {model_out.shape[1]}, neither {channels} nor"
            f" {2 * channels}"
        )
    return model_out, None


def predict_xstart(
    schedule: Schedule, index: Index, x: torch.Tensor, model_out: torch.Tensor, clip: bool = True
) -> torch.Tensor:
    """The network's estimate of x0 (B, C, H, W) from ``x`` at ``index``, clamped to [-1, 1] when ``clip``."""
    prediction, _ = split_output(model_out, x.shape[1])
    abar = schedule.alphas_cumprod
    if schedule.prediction_type == "epsilon":
        inverse = 1.0 / np.maximum(abar, 1e-20)
        x0 = table(np.sqrt(inverse), index, x) * x - table(np.sqrt(inverse - 1.0), index, x) * prediction
    elif schedule.prediction_type == "v_prediction":
        x0 = table(np.sqrt(abar), index, x) * x - table(np.sqrt(1.0 - abar), index, x) * prediction
    else:
        x0 = prediction
    return x0.clamp(-1.0, 1.0) if clip else x0


def log_variance(schedule: Schedule, index: Index, x: torch.Tensor, model_out: torch.Tensor) -> torch.Tensor:
    """The reverse step's log variance, broadcast to ``x``'s shape.

    With 2C output channels the second half v interpolates, unclamped, between the logs of the posterior
    variance and of
    beta: f log beta + (1 - f) log btilde, f = (v + 1) / 2 (improved DDPM, equation 15); else it is the
    schedule's own.
    """
    _, values = split_output(model_out, x.shape[1])
    small, large = schedule.posterior_log_variance_clipped, np.log(schedule.betas)
    if values is not None:
        fraction = (values + 1.0) / 2.0
        return fraction * table(large, index, x) + (1.0 - fraction) * table(small, index, x)
    fixed = small if schedule.fixed_variance == "fixed_small" else np.append(small[:1], large[1:])
    return torch.zeros_like(x) + table(fixed, index, x)


def ancestral_step(
    schedule: Schedule,
    index: Index,
    x: torch.Tensor,
    model_out: torch.Tensor,
    noise: torch.Tensor | None,
    clip: bool = True,
) -> Step:
    """x_{i-1} from x_i (Ho et al. 2020, algorithm 2, with the learned variance where there is one).

    Args:
        index: i, one integer or one for each image (B,).
        x: x_i, float32 (B, C, H, W).
        model_out: the network's output at ``schedule.timesteps[index]``, (B, C or 2C, H, W).
        noise: standard normal (B, C, H, W); it is masked at index 0, and may be None when every index is 0.
        clip: clamp the predicted x0 to [-1, 1].
    """
    x0 = predict_xstart(schedule, index, x, model_out, clip)
    mean = (
        table(schedule.posterior_mean_coef1, index, x) * x0
        + table(schedule.posterior_mean_coef2, index, x) * x
    )
    log_var = log_variance(schedule, index, x, model_out)
    if isinstance(index, int):
        if index == 0:
            return Step(mean, x0, mean, log_var)
        return Step(mean + torch.exp(0.5 * log_var) * noise, x0, mean, log_var)
    moving = (index > 0).to(x).view(-1, *([1] * (x.ndim - 1)))
    return Step(mean + moving * torch.exp(0.5 * log_var) * noise, x0, mean, log_var)
