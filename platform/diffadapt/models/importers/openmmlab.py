"""OpenMMLab (mmpretrain) ResNet-50 and Swin-T/B classifiers under timm's names.

The SDA paper's ResNet-50 and Swin source models are OpenMMLab's own, not timm's. ResNet keys agree after the
prefix; Swin differs in names, in where a stage's patch merging belongs, and in the channel order inside patch
merging.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import timm
import torch

from diffadapt.core.errors import WeightsError
from diffadapt.models.importers.openmmlab_reference import reference_forward
from diffadapt.models.importers.shared import deviation
from diffadapt.models.state_dict import load_into

_SWIN = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.", r"layers.\1.blocks.\2.attn."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.", r"layers.\1.blocks.\2.mlp.fc1."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1\.", r"layers.\1.blocks.\2.mlp.fc2."),
    (r"stages\.(\d+)\.blocks\.", r"layers.\1.blocks."),
    (r"norm3\.", "norm."),
)
_SWIN_ARCH = {(96, 6): "swin_tiny_patch4_window7_224", (128, 18): "swin_base_patch4_window7_224"}
"""(embedding width, blocks of the third stage) -> timm name."""


def is_openmmlab(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the keys are an OpenMMLab classifier's: ``backbone.*`` and ``head.fc.*``."""
    return "head.fc.weight" in state and any(k.startswith("backbone.") for k in state)


def convert_openmmlab(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]]:
    """(timm architecture, state dict under timm's names). Raises WeightsError for any other network of
    OpenMMLab's."""
    body = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    head = {k: v for k, v in state.items() if k.startswith("head.")}
    rest = [k for k in state if not k.startswith(("backbone.", "head.", "data_preprocessor."))]
    if set(head) != {"head.fc.weight", "head.fc.bias"} or rest:
        odd = (sorted(set(head) - {"head.fc.weight", "head.fc.bias"}) + rest)[:3]
        raise WeightsError(
            f"The OpenMMLab checkpoint has keys that no ResNet-50 or Swin classifier has: {', '.join(odd)}."
        )
    if (
        "layer4.2.conv3.weight" in body
        and "layer3.5.conv3.weight" in body
        and "layer3.6.conv3.weight" not in body
    ):
        return "resnet50", {**body, "fc.weight": head["head.fc.weight"], "fc.bias": head["head.fc.bias"]}
    if "patch_embed.projection.weight" in body:
        return _convert_swin(body, head)
    raise WeightsError(
        "Only ResNet-50, Swin-T and Swin-B classifiers of OpenMMLab are converted; this is another network."
    )


def _convert_swin(
    body: dict[str, torch.Tensor], head: dict[str, torch.Tensor]
) -> tuple[str, dict[str, torch.Tensor]]:
    width = body["patch_embed.projection.weight"].shape[0]
    blocks = len({m[1] for k in body if (m := re.match(r"stages\.2\.blocks\.(\d+)\.", k))})
    arch = _SWIN_ARCH.get((width, blocks))
    if arch is None:
        raise WeightsError(
            f"An OpenMMLab Swin with width {width} and {blocks} blocks in its third stage is neither Swin-T"
            " nor Swin-B."
        )
    out = dict(head)
    for key, value in body.items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue  # buffers that timm computes
        if match := re.match(r"stages\.(\d+)\.downsample\.", key):
            value = _unfold_to_timm_order(value)
            key = key.replace(match[0], f"layers.{int(match[1]) + 1}.downsample.")
        else:
            for pattern, new in _SWIN:
                key = re.sub(f"^{pattern}", new, key)
        out[key] = value
    return arch, out


def _unfold_to_timm_order(value: torch.Tensor) -> torch.Tensor:
    """Reorder the last axis, 4C long, from unfold's (channel, row, column) to timm's (column, row,
    channel)."""
    channels = value.shape[-1] // 4
    return value.unflatten(-1, (channels, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()


@torch.no_grad()
def check_openmmlab(state: Mapping[str, torch.Tensor], tolerance: float = 1e-3) -> float:
    """Largest logit difference, relative to the largest logit, between the converted timm model and an
    independent forward pass that reads OpenMMLab's names, on one seeded random image. Raises WeightsError if
    keys do not match or it exceeds ``tolerance``.
    """
    arch, converted = convert_openmmlab(state)
    model = timm.create_model(arch, num_classes=converted[_head(arch)].shape[0]).eval()
    load_into(model, converted, "OpenMMLab checkpoint")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    difference = deviation(model(image), reference_forward(state, image))
    if not difference <= tolerance:
        raise WeightsError(
            f"The converted {arch} differs from the original by {difference:.1e} on a test image; do not"
            " use it."
        )
    return difference


def _head(arch: str) -> str:
    return "fc.weight" if arch == "resnet50" else "head.fc.weight"
