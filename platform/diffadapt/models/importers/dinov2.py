"""DINOv2 (Oquab et al. 2023; with registers: Darcet et al. 2024) of Meta's files and of transformers' folders
under timm's names.

Meta's files and transformers' differ in names, and in that transformers keeps queries, keys and values apart;
timm's own filter does the rest (registers, names of the gated network, positions of another input size).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from diffadapt.core.errors import WeightsError

SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""Width -> the name that timm and the authors give the network."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFIXES = ("dinov2.", "dinov2_with_registers.")
_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_INNER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
    "mlp.down_proj": "mlp.w3",
}
_JOINED = {
    "attn.qkv": (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "mlp.w12": (("mlp.gate_proj", "mlp.up_proj"),),
}
"""Layers whose parts later versions of transformers keep apart."""


def dinov2_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's config.json would say of a transformers DINOv2 folder with this config.json; its positions
    are brought to the input size that is asked for. Raises WeightsError for one that is no published size."""
    registers = (
        int(config.get("num_register_tokens", 0)) if "registers" in str(config.get("model_type")) else 0
    )
    width, patch = config.get("hidden_size"), config.get("patch_size", 14)
    if width not in SIZES or patch != 14 or registers not in (0, 4):
        raise WeightsError(
            f"A DINOv2 of width {width}, patches of {patch} and {registers} registers is none of the"
            f" published ones (widths {', '.join(map(str, SIZES))}, patches of 14, 0 or 4 registers)."
        )
    return {
        "architecture": _arch(width, registers),
        "num_classes": 0,
        "any_input_size": True,
        "pretrained_cfg": {"mean": list(MEAN), "std": list(STD)},
    }


def dinov2_arch(state: Mapping[str, torch.Tensor]) -> str | None:
    """timm's name of the network whose tensors have Meta's names; None: it is none of them."""
    if not is_dinov2(state) or (width := state["cls_token"].shape[-1]) not in SIZES:
        return None
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    return _arch(width, registers) if registers in (0, 4) else None


def is_dinov2(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the names are those of Meta's files."""
    return {"mask_token", "cls_token", "blocks.0.ls1.gamma"} <= state.keys()


def from_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of transformers under the names of Meta's files, a classifier of its own left out; others as
    they are."""
    plain = dict(state)
    for prefix in PREFIXES:
        plain = {k.removeprefix(prefix): v for k, v in plain.items()}
    if "embeddings.patch_embeddings.projection.weight" not in plain:
        return dict(state)
    out = {_TOP[k]: v for k, v in plain.items() if k in _TOP}
    layers: dict[tuple[str, str, str], torch.Tensor] = {}
    for key, value in plain.items():
        if match := re.match(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)$", key):
            layers[match[1], match[2], match[3]] = value
    for (number, inner, leaf), value in layers.items():
        if inner in _INNER:
            out[f"blocks.{number}.{_INNER[inner]}.{'gamma' if leaf == 'lambda1' else leaf}"] = value
        for joined, ways in _JOINED.items():
            for parts in ways:
                if inner == parts[0] and all((number, part, leaf) in layers for part in parts):
                    tensors = [layers[number, part, leaf] for part in parts]
                    out[f"blocks.{number}.{joined}.{leaf}"] = torch.cat(tensors)
    out.setdefault("mask_token", torch.zeros_like(out["cls_token"][0]))
    return out


def as_timm(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors with Meta's names as ``model`` of timm wants them, positions at its input size; others as they
    are."""
    if not is_dinov2(state):
        return dict(state)
    from timm.models.vision_transformer import checkpoint_filter_fn

    return checkpoint_filter_fn(dict(state), model)  # type: ignore[arg-type]


def _arch(width: int, registers: int) -> str:
    return f"vit_{SIZES[width]}_patch14_{'reg4_' if registers else ''}dinov2"
