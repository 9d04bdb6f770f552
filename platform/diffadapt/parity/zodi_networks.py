"""Parity of ZoDi's networks with its authors' modules: a forward pass of a head at small width, and how many
parameters there are at full size.

Files are recognised by their keys: ``arch``, ``map0`` ... (what the backbone gives, the deepest last),
``size`` (height, width) of the image, ``logits`` (B, outputs, height, width) in evaluation mode,
``weight/<name>`` (the head's, in our names), ``parameters_<backbone>`` and ``parameters_head_<backbone>`` (20
outputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffadapt.parity.check import EXACT_GATE, NumberFile, ParityRow, compare

OUTPUTS = 20
"""19 classes and void."""
STRIDES = (4, 8, 16, 32)
WEIGHT, COUNT, HEAD = "weight/", "parameters_", "parameters_head_"


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Iterator[ParityRow]:
    """All rows of a file of this form; none of another."""
    if {"arch", "map0", "size", "logits"} <= set(file.arrays):
        yield compare(file, "logits", _logits(file.arrays), file.arrays["logits"])
        yield from _counts(file)


def _logits(a: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    from diffadapt.models.segmentation.network import SegmentationNetwork

    maps = [torch.from_numpy(a[k]) for k in sorted(k for k in a if k.startswith("map"))]

    class Given(torch.nn.Module):
        multiple = 1

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return maps

    state = {k.removeprefix(WEIGHT): torch.from_numpy(v) for k, v in a.items() if k.startswith(WEIGHT)}
    outputs = a["logits"].shape[1]
    head = _head(str(a["arch"]), [m.shape[1] for m in maps], outputs, state)
    counted = {k: v for k, v in head.state_dict().items() if k.endswith("num_batches_tracked")}
    head.load_state_dict({**state, **counted})
    net = SegmentationNetwork(Given(), head, outputs).eval()
    with torch.inference_mode():
        return net(torch.zeros(len(maps[0]), 3, *(int(n) for n in a["size"])))[0].numpy()


def _head(arch: str, channels: list[int], outputs: int, state: dict[str, Any]) -> Any:
    """The head of ``arch`` whose width is that of ``state``."""
    from diffadapt.models.segmentation.deeplabv3plus import DeepLabHead
    from diffadapt.models.segmentation.refinenet import RefineNetHead

    width = state["classifier.weight"].shape[1]
    return {"deeplabv3plus": DeepLabHead, "refinenet": RefineNetHead}[arch](channels, STRIDES, outputs, width)


def _counts(file: NumberFile) -> Iterator[ParityRow]:
    import torch

    from diffadapt.models.segmentation.build import build_segmenter
    from diffadapt.models.segmentation.config import SegmenterConfig

    a = file.arrays
    for key in sorted(k for k in a if k.startswith(COUNT) and not k.startswith(HEAD)):
        backbone = key.removeprefix(COUNT)
        config = SegmenterConfig(arch=str(a["arch"]), backbone=backbone, weights="none")  # type: ignore[arg-type]
        with torch.device("meta"):
            net = build_segmenter(config, OUTPUTS - 1)
        for name, part in ((key, net), (HEAD + backbone, net.head)):
            count = np.array(sum(p.numel() for p in part.parameters()))
            yield compare(file, name, count, a[name], EXACT_GATE)
