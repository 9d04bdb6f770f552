"""RefineNet (Lin et al. 2017), the four-cascade form, as ZoDi's authors use it (after Nekrasov's code): each
level of the backbone refines what the deeper ones gave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 256
LEVELS = 4
POOLINGS = 4
ADAPTING, REFINING = 2, 3
"""Residual units on a level's own map, and behind its poolings."""
DROPPED = 2
"""So many maps, the deepest ones, pass dropout."""


class RefineNetHead(nn.Module):
    """Maps of a backbone (the deepest last; the last four are used) -> logits (B, outputs, h, w) at the size
    of the finest used times its stride (about the image's).

    Every level: two residual units, the sum with the level below, four chained poolings, three residual
    units; the deepest has 2 x ``width`` channels (512), the others ``width`` (256). Maps grow bilinearly with
    align_corners. ``dropout`` acts on the two deepest maps and before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        width: int = WIDTH,
        dropout: float = 0.5,
    ):
        super().__init__()
        used = list(channels)[-LEVELS:]
        self.stride = list(strides)[-LEVELS:][0]
        deepest = len(used) - 1
        self.dropout = nn.Dropout(dropout)
        self.levels = nn.ModuleList(
            Level(inputs, 2 * width if i == deepest else width, i < deepest, width if i else 0)
            for i, inputs in enumerate(used)
        )
        self.classifier = conv3(width, outputs)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        maps = list(maps)[-len(self.levels) :]
        maps = [*maps[:-DROPPED], *map(self.dropout, maps[-DROPPED:])]
        x = None
        for level, own in zip(reversed(self.levels), reversed(maps), strict=True):
            x = level(own, x)
        assert x is not None
        x = grown(x, [side * self.stride for side in x.shape[-2:]])
        return self.classifier(self.dropout(x))


class Level(nn.Module):
    """A map and what the deeper level gave -> the refined map, with ``gives`` channels (0: those of its own
    ``width``). ``joins``: whether there is a deeper level."""

    def __init__(self, inputs: int, width: int, joins: bool, gives: int):
        super().__init__()
        self.reduce = conv3(inputs, width, bias=False)
        self.adapt = nn.Sequential(*(ResidualUnit(width, bias=False) for _ in range(ADAPTING)))
        self.join = conv3(width, width, bias=False) if joins else None
        self.pool = ChainedPooling(width, POOLINGS)
        self.refine = nn.Sequential(*(ResidualUnit(width, bias=False) for _ in range(REFINING)))
        self.give = conv3(width, gives, bias=False) if gives else None

    def forward(self, own: torch.Tensor, deeper: torch.Tensor | None) -> torch.Tensor:
        x = self.adapt(self.reduce(own))
        if self.join is not None:
            assert deeper is not None
            x = self.join(x) + grown(deeper, x.shape[-2:])
        x = self.refine(self.pool(x))
        return x if self.give is None else self.give(x)


class ResidualUnit(nn.Module):
    """ReLU, convolution, ReLU, convolution (``bias``: the second one's), plus the input; no batch norm."""

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.conv1, self.conv2 = conv3(width, width), conv3(width, width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ChainedPooling(nn.Module):
    """A chain of 5x5 max poolings of the rectified map, each followed by a convolution; the sum of all
    links."""

    def __init__(self, width: int, poolings: int):
        super().__init__()
        self.convs = nn.ModuleList(conv3(width, width, bias=False) for _ in range(poolings))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        link = total = x
        for conv in self.convs:
            link = conv(F.max_pool2d(link, 5, 1, 2))
            total = total + link
        return total


def grown(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """``x`` brought to ``size`` bilinearly, corners on corners."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
