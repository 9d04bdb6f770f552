"""DeepLabv3+ (Chen et al. 2018): an undilated backbone, atrous spatial pyramid pooling, a decoder with
low-level features. As ZoDi's authors build it, and with the paper's two decoder convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.models.segmentation.network import ConvNorm, resize

WIDTH = 256
RATES = (6, 12, 18)
LOW_STRIDE = 4


class DeepLabHead(nn.Module):
    """Maps of a backbone -> logits (B, outputs, h, w) at the size of its low-level map, the one nearest to
    stride 4, as the code of ZoDi (Azuma et al. 2024) has it: one 3x3 convolution in the decoder, low-level
    channels first, all convolutions begin as He et al. 2015 say (fan-in).

    ``channels`` and ``strides`` describe the maps, the deepest last. Low-level features are reduced to 3/16
    of ``width`` (48 of 256).
    """

    convolutions = 1

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        width: int = WIDTH,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.low = min(range(len(strides) - 1), key=lambda i: (abs(strides[i] - LOW_STRIDE), i))
        low = max(1, width * 3 // 16)
        self.aspp = ASPP(channels[-1], width, dropout)
        self.reduce = ConvNorm(channels[self.low], low)
        self.decoder = nn.Sequential(
            *(ConvNorm(width if i else width + low, width, 3) for i in range(self.convolutions))
        )
        self.classifier = nn.Conv2d(width, outputs, 1)
        self._begin()

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        low = self.reduce(maps[self.low])
        deep = resize(self.aspp(maps[-1]), low.shape[-2:])
        return self.classifier(self.decoder(self._joined(deep, low)))

    def _joined(self, deep: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return torch.cat([low, deep], 1)

    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)


class TwoConvHead(DeepLabHead):
    """With two 3x3 convolutions in the decoder, as Chen et al. 2018 found best (their table 2), deep channels
    first, and torch's own first weights."""

    convolutions = 2

    def _joined(self, deep: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return torch.cat([deep, low], 1)

    def _begin(self) -> None:
        pass


class ASPP(nn.Module):
    """A 1x1 convolution, three dilated ones and the pooled image side by side, joined by a 1x1
    convolution."""

    def __init__(self, inputs: int, width: int, dropout: float):
        super().__init__()
        self.branches = nn.ModuleList(
            [ConvNorm(inputs, width), *(ConvNorm(inputs, width, 3, rate) for rate in RATES)]
        )
        self.pool = PooledImage(inputs, width)
        self.project = nn.Sequential(ConvNorm(width * (len(RATES) + 2), width), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(x).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))


class PooledImage(nn.Module):
    """The mean over positions, 1x1 convolution, batch norm, ReLU: (B, inputs, h, w) -> (B, width, 1, 1).

    A batch of one has no variance here; it is normalised by the running statistics instead.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.mean((2, 3), keepdim=True))
        if self.training and len(x) == 1 and type(self.norm) is nn.BatchNorm2d:
            norm = self.norm
            return F.relu(
                F.batch_norm(
                    x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
                )
            )
        return F.relu(self.norm(x))
