"""ZoDi's networks beside its authors' modules: a forward pass in evaluation mode on odd sizes, and the number
of parameters at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from diffadapt.models.segmentation.build import build_segmenter
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.deeplabv3plus import DeepLabHead
from diffadapt.models.segmentation.refinenet import RefineNetHead
from diffadapt.parity.check import NumberFile
from diffadapt.parity.zodi_networks import checks

GOLDEN = Path(__file__).parent / "zodi"


def number_file(arch: str) -> NumberFile:
    path = GOLDEN / f"network_{arch}.npz"
    return NumberFile(path, path.name)


@pytest.mark.parametrize("arch", ["deeplabv3plus", "refinenet"])
def test_logits_and_parameters_are_the_authors(arch):
    rows = list(checks(number_file(arch), []))
    assert [row for row in rows if not row.ok] == []
    assert [row.check for row in rows] == [
        "logits",
        "parameters_resnet101",
        "parameters_head_resnet101",
        "parameters_resnet50",
        "parameters_head_resnet50",
    ]
    assert rows[0].gate == 1e-5


@pytest.mark.parametrize(
    ("arch", "weight"),
    [
        ("deeplabv3plus", "aspp.pool.norm.running_mean"),
        ("deeplabv3plus", "reduce.1.running_var"),
        ("refinenet", "levels.0.pool.convs.3.weight"),
        ("refinenet", "levels.3.refine.2.conv1.bias"),
    ],
)
def test_a_weight_that_is_another_is_noticed(arch, weight):
    file = number_file(arch)
    file.arrays[f"weight/{weight}"] = file.arrays[f"weight/{weight}"] * 1.1 + 0.1
    assert not next(iter(checks(file, []))).ok


def test_the_variants_that_are_kept_are_other_networks():
    """Their heads in millions of parameters; the published ones have 16.25 and 75.55."""
    found = {}
    for arch in ("deeplabv3plus_2conv", "refinenet_2pool"):
        with torch.device("meta"):
            net = build_segmenter(SegmenterConfig(arch=arch, weights="none"), 19)
        found[arch] = round(sum(p.numel() for p in net.head.parameters()) / 1e6, 2)
    assert found == {"deeplabv3plus_2conv": 16.84, "refinenet_2pool": 67.3}


def test_deeplabs_convolutions_begin_as_kaiming_normal_and_dropout_is_a_half():
    torch.manual_seed(0)
    head = DeepLabHead((256, 512, 1024, 512), (4, 8, 16, 32), 20, 64)
    for module in head.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            wanted = (2 / module.weight[0].numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(wanted, rel=0.05)
    assert head.aspp.project[1].p == 0.5


def test_refinenets_dropout_acts_on_the_two_deepest_maps_and_before_the_classifier():
    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, ...]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(tuple(x.shape[1:]))
            return x

    head = RefineNetHead((3, 5, 7, 9), (4, 8, 16, 32), 2, 4)
    assert head.dropout.p == 0.5
    head.dropout = noted = Noted()
    sides = ((9, 13), (5, 7), (3, 4), (2, 2))
    out = head([torch.randn(1, c, *s) for c, s in zip((3, 5, 7, 9), sides, strict=True)])
    assert noted.seen == [(7, 3, 4), (9, 2, 2), (4, 36, 52)]
    assert tuple(out.shape) == (1, 2, 36, 52), "the classifier sees the size of the image"


def test_the_configuration_gives_the_published_dropout():
    wanted = {"deeplabv3plus": 0.5, "refinenet": 0.5, "segformer": 0.1, "refinenet_2pool": 0.1}
    assert {arch: SegmenterConfig(arch=arch).dropped for arch in wanted} == wanted
    assert SegmenterConfig(dropout=0.2).dropped == 0.2
    with torch.device("meta"):
        net = build_segmenter(SegmenterConfig(weights="none"), 19)
    assert net.head.aspp.project[1].p == 0.5
