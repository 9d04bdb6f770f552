"""RefineNet (Lin et al. 2017), the four-cascade form: each level of the backbone refines what the deeper ones
gave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.models.segmentation.network import resize

WIDTH = 256
LEVELS = 4
POOLINGS = 2


class RefineNetHead(nn.Module):
    """Maps of a backbone (the deepest last; the last four are used) -> logits (B, outputs, h, w) at the size
    of the finest used.

    The deepest level has 2 x ``width`` channels (512), the others ``width`` (256), as in the paper.
    """

    def __init__(self, channels: Sequence[int], outputs: int, width: int = WIDTH, dropout: float = 0.1):
        super().__init__()
        used = list(channels)[-LEVELS:]
        widths = [width] * (len(used) - 1) + [2 * width]
        self.adapt = nn.ModuleList(_conv3(i, o, bias=False) for i, o in zip(used, widths, strict=True))
        self.refine = nn.ModuleList()
        for level in range(len(used)):
            inputs = [widths[level]] if level == len(used) - 1 else [widths[level], widths[level + 1]]
            self.refine.append(RefineBlock(inputs, widths[level], units=3 if level == 0 else 1))
        self.dropout = nn.Dropout(dropout)
        self.classifier = _conv3(width, outputs)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        levels = [adapt(x) for adapt, x in zip(self.adapt, list(maps)[-len(self.adapt) :], strict=True)]
        x = self.refine[-1](levels[-1:])
        for level in range(len(levels) - 2, -1, -1):
            x = self.refine[level]([levels[level], x])
        return self.classifier(self.dropout(x))


class RefineBlock(nn.Module):
    """Two residual units on each input, fusion at the size of the first, chained residual pooling, ``units``
    residual units."""

    def __init__(self, inputs: Sequence[int], width: int, units: int):
        super().__init__()
        self.adapt = nn.ModuleList(nn.Sequential(ResidualUnit(c), ResidualUnit(c)) for c in inputs)
        self.fuse = nn.ModuleList(_conv3(c, width) for c in inputs) if len(inputs) > 1 else None
        self.pool = ChainedPooling(width)
        self.output = nn.Sequential(*(ResidualUnit(width) for _ in range(units)))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        paths = [adapt(x) for adapt, x in zip(self.adapt, maps, strict=True)]
        if self.fuse is not None:
            paths = [resize(conv(x), paths[0].shape[-2:]) for conv, x in zip(self.fuse, paths, strict=True)]
        return self.output(self.pool(sum(paths[1:], paths[0])))


class ResidualUnit(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input; no batch norm."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = _conv3(width, width), _conv3(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ChainedPooling(nn.Module):
    """A chain of 5x5 max poolings, each followed by a convolution; the sum of all links."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(_conv3(width, width, bias=False) for _ in range(POOLINGS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        link = total = x
        for conv in self.convs:
            link = conv(F.max_pool2d(link, 5, 1, 2))
            total = total + link
        return total


def _conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
