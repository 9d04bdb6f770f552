"""Forward passes of OpenMMLab's ResNet-50 and Swin classifiers straight from their parameters, to check a
conversion with.

Written from the layers' definitions and sharing no code with timm, so that agreement means something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F

State = Mapping[str, torch.Tensor]
WINDOW = 7


def reference_forward(state: State, images: torch.Tensor) -> torch.Tensor:
    """Normalised images (B, 3, 224, 224) -> logits, for a state dict with ``backbone.*`` and ``head.fc.*``
    keys."""
    body = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    features = _swin(body, images) if "patch_embed.projection.weight" in body else _resnet(body, images)
    return F.linear(features, state["head.fc.weight"], state["head.fc.bias"])


def _norm2d(p: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(
        x, p[f"{name}.running_mean"], p[f"{name}.running_var"], p[f"{name}.weight"], p[f"{name}.bias"]
    )


def _resnet(p: State, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(_norm2d(p, "bn1", F.conv2d(x, p["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for i in range(blocks):
            at, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            y = F.relu(_norm2d(p, f"{at}.bn1", F.conv2d(x, p[f"{at}.conv1.weight"])))
            y = F.relu(
                _norm2d(p, f"{at}.bn2", F.conv2d(y, p[f"{at}.conv2.weight"], stride=stride, padding=1))
            )
            y = _norm2d(p, f"{at}.bn3", F.conv2d(y, p[f"{at}.conv3.weight"]))
            if i == 0:
                x = _norm2d(
                    p, f"{at}.downsample.1", F.conv2d(x, p[f"{at}.downsample.0.weight"], stride=stride)
                )
            x = F.relu(x + y)
    return x.mean((2, 3))


def _norm(p: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def _linear(p: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def merge_patches(p: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) -> (B, H/2, W/2, 2C): unfold 2x2 neighbourhoods channel first, then norm and
    projection."""
    batch, height, width, _ = x.shape
    x = F.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)
    return _linear(p, f"{name}.reduction", _norm(p, f"{name}.norm", x)).reshape(
        batch, height // 2, width // 2, -1
    )


def _swin(p: State, x: torch.Tensor) -> torch.Tensor:
    weight = p["patch_embed.projection.weight"]
    x = F.conv2d(x, weight, p["patch_embed.projection.bias"], stride=4).permute(0, 2, 3, 1)
    x = _norm(p, "patch_embed.norm", x)
    for stage in range(4):
        blocks = 1 + max(int(m[1]) for k in p if (m := re.match(rf"stages\.{stage}\.blocks\.(\d+)\.", k)))
        for i in range(blocks):
            x = _block(p, f"stages.{stage}.blocks.{i}", x, shift=WINDOW // 2 if i % 2 else 0)
        if stage < 3:
            x = merge_patches(p, f"stages.{stage}.downsample", x)
    return _norm(p, "norm3", x).mean((1, 2))


def _block(p: State, at: str, x: torch.Tensor, shift: int) -> torch.Tensor:
    x = x + _attention(p, f"{at}.attn.w_msa", _norm(p, f"{at}.norm1", x), shift)
    y = _linear(p, f"{at}.ffn.layers.0.0", _norm(p, f"{at}.norm2", x))
    return x + _linear(p, f"{at}.ffn.layers.1", F.gelu(y))


def _windows(x: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) -> (B * windows, 49, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, channels)


def _attention(p: State, at: str, x: torch.Tensor, shift: int) -> torch.Tensor:
    batch, height, width, channels = x.shape
    if min(height, width) <= WINDOW:
        shift = 0
    table = p[f"{at}.relative_position_bias_table"]
    heads = table.shape[1]
    q, k, v = (
        t.unflatten(-1, (heads, -1)).transpose(1, 2)
        for t in _linear(p, f"{at}.qkv", _windows(x.roll((-shift, -shift), (1, 2)))).chunk(3, dim=-1)
    )
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + _position_bias(table)
    if shift:
        # Pixels that the roll brought together from opposite borders must not see each other.
        rows, cols = (
            torch.bucketize(torch.arange(n), torch.tensor([n - WINDOW, n - shift]), right=True)
            for n in (height, width)
        )
        region = _windows((3 * rows[:, None] + cols).reshape(1, height, width, 1)).squeeze(-1)
        apart = region[:, :, None] != region[:, None, :]
        scores = scores.masked_fill(apart.repeat(batch, 1, 1)[:, None], float("-inf"))
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, WINDOW, WINDOW, channels)
    y = y.reshape(batch, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels).transpose(2, 3)
    y = _linear(p, f"{at}.proj", y.reshape(batch, height, width, channels))
    return y.roll((shift, shift), (1, 2))


def _position_bias(table: torch.Tensor) -> torch.Tensor:
    """(169, heads) -> (heads, 49, 49): row of the table = (row offset + 6) * 13 + column offset + 6."""
    row, col = (
        t.flatten() for t in torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    )
    span = 2 * WINDOW - 1
    index = (row[:, None] - row[None] + WINDOW - 1) * span + (col[:, None] - col[None] + WINDOW - 1)
    return table[index].permute(2, 0, 1)
