"""What the importers of MobileNetV2 and EfficientNet-Lite share: both are a first convolution, inverted
residual blocks and a last 1x1 convolution with ReLU6 and TensorFlow's padding, so one plain forward pass
checks both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.core.errors import WeightsError
from diffadapt.core.place import new_folder
from diffadapt.models.export import export_classifier
from diffadapt.models.importers.shared import deviation
from diffadapt.models.weights import content_revision

SELF_CHECK_GATE = 1e-4
Plan = tuple[tuple[int, int, int, int], ...]
"""Expansion, channels, blocks and first stride of each stage."""
Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""(weight, bias) of each convolution in the network's order, batch norm folded in, and of the classifier."""


def write_checked(
    model: nn.Module,
    out: str,
    file: Path,
    original: tuple[Layers, Plan],
    title: str,
    *,
    extra: dict[str, Any],
    **exported: Any,
) -> float:
    """Write ``model`` as the timm folder ``out`` (``exported``: what export_classifier takes beside), after
    its logits of two random images of 224 pixels agree with those of the ``original`` layers.

    Returns the largest difference over the largest logit. Raises WeightsError where it is not below
    SELF_CHECK_GATE.
    """
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.inference_mode():
        error = deviation(model(x), reference_forward(*original, x))
    if not error < SELF_CHECK_GATE:
        raise WeightsError(
            f"{str(file)!r} gives logits that differ by {error:.1e} from its own layers: it is not {title},"
            " or it is damaged."
        )
    extra = {**extra, "revision": content_revision(str(file))}
    with new_folder(out) as scratch:
        export_classifier(model, scratch, extra=extra, **exported)
    return error


def reference_forward(layers: Layers, plan: Plan, x: torch.Tensor) -> torch.Tensor:
    """Logits from the layers alone, as Sandler et al. 2018 describe the network, with TensorFlow's 'same'
    padding."""
    queue = iter(layers)

    def convolve(
        x: torch.Tensor, stride: int = 1, grouped: bool = False, bounded: bool = True
    ) -> torch.Tensor:
        weight, bias = next(queue)
        side = weight.shape[-1]
        total = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[-2:]]
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        x = F.conv2d(x, weight, bias, stride, groups=len(weight) if grouped else 1)
        return x.clamp(0, 6) if bounded else x

    x = convolve(x, 2)
    for expansion, channels, blocks, first in plan:
        for i in range(blocks):
            y = convolve(x) if expansion > 1 else x
            y = convolve(convolve(y, first if i == 0 else 1, grouped=True), bounded=False)
            x = x + y if i and y.shape[1] == channels else y
    weight, bias = layers[-1]
    return F.linear(convolve(x).mean((2, 3)), weight, bias)


def one_file(place: str, pattern: str, what: str) -> Path:
    """``place``, or the one file below this folder whose name matches ``pattern``. Raises WeightsError where
    there is none or several."""
    path = Path(place).expanduser()
    if path.is_file():
        return path
    found = sorted(path.rglob(pattern)) if path.is_dir() else []
    if len(found) != 1:
        raise WeightsError(f"{place!r} holds {len(found)} files {pattern}: give {what}.")
    return found[0]
