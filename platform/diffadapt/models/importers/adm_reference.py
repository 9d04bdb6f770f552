"""ADM's forward pass straight from a checkpoint's own keys, in plain torch functions.

It shares no code with diffusers and none with the key map, so that it can judge an imported network. It is
written for clarity, not for speed, and keeps no state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from diffadapt.models.adm import ADMConfig

State = Mapping[str, torch.Tensor]


def adm_forward(state: State, config: ADMConfig, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The network's output (B, out_channels, H, W) for images ``x`` (B, C, H, W) at integer timesteps ``t``
    (B,)."""
    half = config.model_channels // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angle = t.float()[:, None] * frequency[None, :]
    emb = _linear(state, "time_embed.0", torch.cat([angle.cos(), angle.sin()], dim=1))
    emb = _linear(state, "time_embed.2", F.silu(emb))

    period = config.num_res_blocks + 1
    total = len(config.channel_mult) * period
    h = _conv(state, "input_blocks.0.0", x)
    skips = [h]
    for i in range(1, total):
        resample = "down" if i % period == 0 else None
        h = _block(state, config, f"input_blocks.{i}", h, emb, resample)
        skips.append(h)
    h = _res(state, config, "middle_block.0", h, emb)
    h = _attention(state, config, "middle_block.1", h)
    h = _res(state, config, "middle_block.2", h, emb)
    for i in range(total):
        h = torch.cat([h, skips.pop()], dim=1)
        h = _block(state, config, f"output_blocks.{i}", h, emb, None)
    return _conv(state, "out.2", F.silu(_norm(state, "out.0", h)))


def _block(
    state: State, config: ADMConfig, at: str, h: torch.Tensor, emb: torch.Tensor, resample: str | None
):
    """One entry of input_blocks or output_blocks: a residual block, then whatever its further children
    are."""
    h = _res(state, config, f"{at}.0", h, emb, resample)
    for child in (1, 2):
        if f"{at}.{child}.qkv.weight" in state:
            h = _attention(state, config, f"{at}.{child}", h)
        elif f"{at}.{child}.in_layers.0.weight" in state:
            h = _res(state, config, f"{at}.{child}", h, emb, "up")
    return h


def _res(
    state: State, config: ADMConfig, at: str, x: torch.Tensor, emb: torch.Tensor, resample: str | None = None
):
    h = F.silu(_norm(state, f"{at}.in_layers.0", x))
    if resample == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    elif resample == "up":
        h, x = (
            F.interpolate(h, scale_factor=2, mode="nearest"),
            F.interpolate(x, scale_factor=2, mode="nearest"),
        )
    h = _conv(state, f"{at}.in_layers.2", h)
    e = _linear(state, f"{at}.emb_layers.1", F.silu(emb))[:, :, None, None]
    if config.scale_shift:
        scale, shift = e.chunk(2, dim=1)
        h = _norm(state, f"{at}.out_layers.0", h) * (1 + scale) + shift
    else:
        h = _norm(state, f"{at}.out_layers.0", h + e)
    h = _conv(state, f"{at}.out_layers.3", F.silu(h))
    if f"{at}.skip_connection.weight" in state:
        x = _conv(state, f"{at}.skip_connection", x)
    return x + h


def _attention(state: State, config: ADMConfig, at: str, x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    heads = channels // config.num_head_channels
    flat = x.reshape(batch, channels, height * width)
    qkv = F.conv1d(_norm(state, f"{at}.norm", flat), state[f"{at}.qkv.weight"], state[f"{at}.qkv.bias"])
    if config.legacy_qkv:
        q, k, v = qkv.reshape(batch, heads, 3, config.num_head_channels, -1).unbind(2)
    else:
        q, k, v = qkv.reshape(batch, 3, heads, config.num_head_channels, -1).unbind(1)
    weight = torch.softmax(
        torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(config.num_head_channels), dim=-1
    )
    out = torch.einsum("bhts,bhcs->bhct", weight, v).reshape(batch, channels, -1)
    out = F.conv1d(out, state[f"{at}.proj_out.weight"], state[f"{at}.proj_out.bias"])
    return x + out.reshape(x.shape)


def _norm(state: State, at: str, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 32, state[f"{at}.weight"], state[f"{at}.bias"], 1e-5)


def _conv(state: State, at: str, x: torch.Tensor) -> torch.Tensor:
    weight = state[f"{at}.weight"]
    return F.conv2d(x, weight, state[f"{at}.bias"], padding=weight.shape[-1] // 2)


def _linear(state: State, at: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{at}.weight"], state[f"{at}.bias"])
