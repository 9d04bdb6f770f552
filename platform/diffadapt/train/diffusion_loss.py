"""Training losses of a diffusion model: noise prediction, and the hybrid bound that also trains a learned
variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import log_variance, predict_xstart, table


def diffusion_loss(
    schedule: Schedule, t: Tensor, x0: Tensor, x_t: Tensor, noise: Tensor, model_out: Tensor
) -> dict[str, Tensor]:
    """``loss`` and its parts for a network that predicts the noise (Ho et al. 2020, equation 14).

    All images are (B, C, H, W), ``t`` (B,) indices. With 2C output channels ``loss`` = mse + vlb, the hybrid
    objective of improved DDPM (Nichol & Dhariwal 2021, equation 16: 0.001 L_vlb with T = 1000 steps is one
    term a drawn step), in which the mean is detached so that the bound trains the variance only.
    """
    channels = x0.shape[1]
    model_out = model_out.float()
    mse = (model_out[:, :channels] - noise).square().mean()
    if model_out.shape[1] == channels:
        return {"loss": mse, "mse": mse}
    frozen_mean = torch.cat([model_out[:, :channels].detach(), model_out[:, channels:]], dim=1)
    vlb = vlb_bits(schedule, t, x0, x_t, frozen_mean).mean()
    return {"loss": mse + vlb, "mse": mse, "vlb": vlb}


def vlb_bits(schedule: Schedule, t: Tensor, x0: Tensor, x_t: Tensor, model_out: Tensor) -> Tensor:
    """The bound's term at each image's step, bits a dimension, (B,): a KL divergence, or at t = 0 the
    decoder's likelihood of 8-bit values in [-1, 1]."""
    first, second = table(schedule.posterior_mean_coef1, t, x0), table(schedule.posterior_mean_coef2, t, x0)
    true_mean = first * x0 + second * x_t
    true_log_var = table(schedule.posterior_log_variance_clipped, t, x0)
    mean = first * predict_xstart(schedule, t, x_t, model_out, clip=False) + second * x_t
    log_var = log_variance(schedule, t, x_t, model_out)
    kl = 0.5 * (
        log_var
        - true_log_var
        - 1.0
        + torch.exp(true_log_var - log_var)
        + (true_mean - mean).square() * torch.exp(-log_var)
    )
    likelihood = -_discretised_log_likelihood(x0, mean, 0.5 * log_var)
    per_image = torch.where((t == 0).view(-1, 1, 1, 1), likelihood, kl).flatten(1).mean(dim=1)
    return per_image / math.log(2.0)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of each value's bin of width 2/255 under a Gaussian; the outermost bins reach to
    infinity."""
    inverse, half_bin = torch.exp(-log_scale), 1.0 / 255.0
    upper = torch.special.ndtr((x - mean + half_bin) * inverse)
    lower = torch.special.ndtr((x - mean - half_bin) * inverse)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return torch.log((upper - lower).clamp_min(1e-12))
