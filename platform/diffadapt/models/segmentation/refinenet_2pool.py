"""RefineNet (Lin et al. 2017) in the form that was arch 'refinenet' before: two chained poolings, one
residual unit behind them at all levels but the finest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from diffadapt.models.segmentation.network import resize
from diffadapt.models.segmentation.refinenet import ChainedPooling, ResidualUnit, conv3

WIDTH = 256
LEVELS = 4
POOLINGS = 2


class TwoPoolHead(nn.Module):
    """Maps of a backbone (the deepest last; the last four are used) -> logits (B, outputs, h, w) at the size
    of the finest used.

    The deepest level has 2 x ``width`` channels (512), the others ``width`` (256), as in the paper.
    """

    def __init__(self, channels: Sequence[int], outputs: int, width: int = WIDTH, dropout: float = 0.1):
        super().__init__()
        used = list(channels)[-LEVELS:]
        widths = [width] * (len(used) - 1) + [2 * width]
        self.adapt = nn.ModuleList(conv3(i, o, bias=False) for i, o in zip(used, widths, strict=True))
        self.refine = nn.ModuleList()
        for level in range(len(used)):
            inputs = [widths[level]] if level == len(used) - 1 else [widths[level], widths[level + 1]]
            self.refine.append(RefineBlock(inputs, widths[level], units=3 if level == 0 else 1))
        self.dropout = nn.Dropout(dropout)
        self.classifier = conv3(width, outputs)

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
        self.fuse = nn.ModuleList(conv3(c, width) for c in inputs) if len(inputs) > 1 else None
        self.pool = ChainedPooling(width, POOLINGS)
        self.output = nn.Sequential(*(ResidualUnit(width) for _ in range(units)))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        paths = [adapt(x) for adapt, x in zip(self.adapt, maps, strict=True)]
        if self.fuse is not None:
            paths = [resize(conv(x), paths[0].shape[-2:]) for conv, x in zip(self.fuse, paths, strict=True)]
        return self.output(self.pool(sum(paths[1:], paths[0])))
