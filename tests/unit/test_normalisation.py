"""Segmenters and detectors see the mean and deviation that their weights were published with."""

from __future__ import annotations

import json

import pytest

from diffadapt.core.config import override
from diffadapt.core.recipes import load
from diffadapt.data.scenes.table import plain_table
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.normalisation import normalisation_differences, with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.tasks.detection.fit import FitDetector
from diffadapt.tasks.segmentation.fit import FitSegmenter

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = "timm:tf_efficientnet_lite0.in1k"
INCEPTION_VIT = "vit_base_patch16_224.augreg_in21k_ft_in1k"


def folder(root, file, values):
    root.mkdir()
    (root / file).write_text(json.dumps(values))
    return str(root)


def seen(config):
    found = with_normalisation(config)
    return found.mean, found.std


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (SegmenterConfig(), IMAGENET),
        (SegmenterConfig(backbone="timm:mobilenetv2_100.ra_in1k"), IMAGENET),
        (SegmenterConfig(backbone=LITE), HALVES),
        (SegmenterConfig(backbone=LITE, weights="none"), IMAGENET),
        (SegmenterConfig(arch="linear", backbone=INCEPTION_VIT), HALVES),
        (SegmenterConfig(backbone=LITE, mean=(0.1, 0.2, 0.3)), ((0.1, 0.2, 0.3), HALVES[1])),
        (DetectorConfig(), IMAGENET),
        (DetectorConfig(arch="ssdlite320_mobilenet_v3_large"), HALVES),
        (DetectorConfig(arch="ssdlite320_mobilenet_v3_large", weights="none"), IMAGENET),
        (DetectorConfig(arch="fcos", backbone="timm:tf_efficientnet_lite0.in1k", weights="imagenet"), HALVES),
        (DetectorConfig(arch="fcos", backbone="resnet50", weights="imagenet"), IMAGENET),
    ],
)  # fmt: skip
def test_the_weights_own_unless_given(config, wanted):
    assert seen(config) == wanted


def test_folders_say_it(tmp_path):
    timm = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    own = folder(tmp_path / "timm", "config.json", timm)
    assert seen(SegmenterConfig(backbone="timm:resnet18", weights=own)) == ((0.1,) * 3, (0.2,) * 3)
    processor = {"image_mean": [0.3] * 3, "image_std": [0.4] * 3}
    own = folder(tmp_path / "hf", "preprocessor_config.json", processor)
    assert seen(SegmenterConfig(arch="segformer", backbone=own)) == ((0.3,) * 3, (0.4,) * 3)
    assert seen(DetectorConfig(arch="transformers", backbone=own)) == ((0.3,) * 3, (0.4,) * 3)
    fitted = {"format": 1, "config": {"arch": "fcos", "mean": [0.6] * 3, "std": [0.7] * 3}}
    own = folder(tmp_path / "fitted", "detector.json", fitted)
    assert seen(DetectorConfig(arch="fcos", backbone="tiny", weights=own)) == ((0.6,) * 3, (0.7,) * 3)


def test_digests_count_what_is_seen_and_equal_values_are_served():
    table = plain_table("two", (("a", (0, 0, 0)), ("b", (9, 9, 9))))
    for fit, config in ((FitSegmenter, SegmenterConfig()), (FitDetector, DetectorConfig())):
        implied, given = (
            fit(c, classes=table).identity()
            for c in (config, override(config, dict(zip(("mean", "std"), IMAGENET, strict=True))))
        )
        assert implied == given
    lite = SegmenterConfig(backbone="timm:tf_efficientnet_lite0.in1k")
    assert FitSegmenter(lite, classes=table).identity()["segmenter"]["mean"] == [0.5] * 3


def test_what_is_given_otherwise_is_said():
    config = SegmenterConfig(backbone="timm:tf_efficientnet_lite0.in1k")
    assert normalisation_differences(config) == ""
    said = normalisation_differences(override(config, {"mean": IMAGENET[0]}))
    assert (
        said.startswith("The recipe gives tf_efficientnet_lite0.in1k another input") and "mean 0.485" in said
    )
    assert any("another input" in n for n in FitSegmenter(override(config, {"mean": IMAGENET[0]})).notes())


def test_show_has_the_values():
    recipe = override(load("zodi"), {"segmenter.backbone": "timm:tf_efficientnet_lite0.in1k"})
    assert recipe.segmenter.mean is None and recipe.resolved.segmenter.mean == HALVES[0]
