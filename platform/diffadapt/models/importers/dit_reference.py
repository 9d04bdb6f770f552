"""A second, independent forward pass of the original DiT, driven by the authors' own key names, for checking
conversions.

Written from the paper (Peebles & Xie 2023, section 3) in plain torch functions: no diffusers, no nn.Module,
no attention kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def dit_forward(state: Mapping[str, Tensor], x: Tensor, t: Tensor, y: Tensor, num_heads: int) -> Tensor:
    """Model output (B, out_channels, H, W) for inputs ``x`` (B, C, H, W), timesteps ``t`` (B,) and labels
    ``y`` (B,).

    ``state`` holds the original checkpoint's tensors in float32; a label equal to the number of classes is
    the null class.
    """
    patch = state["x_embedder.proj.weight"].shape[-1]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    h = (
        _patchify(x, patch) @ state["x_embedder.proj.weight"].flatten(1).T
        + state["x_embedder.proj.bias"]
        + state["pos_embed"]
    )
    c = F.silu(_timestep(state, t) + state["y_embedder.embedding_table.weight"][y])
    for i in range(depth):
        h = _block(state, f"blocks.{i}.", h, c, num_heads)
    shift, scale = _linear(state, "final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    h = _linear(state, "final_layer.linear", _modulate(_norm(h), shift, scale))
    return _unpatchify(h, patch, x.shape[-2] // patch, x.shape[-1] // patch)


def _block(state: Mapping[str, Tensor], prefix: str, h: Tensor, c: Tensor, num_heads: int) -> Tensor:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _linear(
        state, prefix + "adaLN_modulation.1", c
    ).chunk(6, dim=1)
    batch, tokens, width = h.shape
    qkv = _linear(state, prefix + "attn.qkv", _modulate(_norm(h), shift_a, scale_a))
    q, k, v = qkv.reshape(batch, tokens, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // num_heads), dim=-1)
    attended = (weights @ v).transpose(1, 2).reshape(batch, tokens, width)
    h = h + gate_a[:, None] * _linear(state, prefix + "attn.proj", attended)
    hidden = F.gelu(
        _linear(state, prefix + "mlp.fc1", _modulate(_norm(h), shift_m, scale_m)), approximate="tanh"
    )
    return h + gate_m[:, None] * _linear(state, prefix + "mlp.fc2", hidden)


def _timestep(state: Mapping[str, Tensor], t: Tensor) -> Tensor:
    half = state["t_embedder.mlp.0.weight"].shape[1] // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies[None]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return _linear(state, "t_embedder.mlp.2", F.silu(_linear(state, "t_embedder.mlp.0", embedding)))


def _linear(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    return x @ state[key + ".weight"].T + state[key + ".bias"]


def _norm(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-6)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


def _patchify(x: Tensor, patch: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(
        batch, (height // patch) * (width // patch), channels * patch * patch
    )


def _unpatchify(h: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    batch, _, width = h.shape
    h = h.reshape(batch, rows, columns, patch, patch, width // patch**2)
    return h.permute(0, 5, 1, 3, 2, 4).reshape(batch, width // patch**2, rows * patch, columns * patch)
