"""Detectors of torchvision and transformers behind one face: losses, boxes, folders, weights of other class
counts, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from detectionkit import SIZE, TABLE, TINY, toy_net

from diffadapt.core.config import strict_precision
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.detection.build import build_detector
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.detection.folder import load_detector, save_detector
from diffadapt.models.detection.network import Target, TransformersDetector, total
from diffadapt.models.detection.source import check_detector, detector_revisions
from diffadapt.models.normalisation import with_normalisation

SMALL = [
    TINY,
    replace(TINY, arch="retinanet"),
    replace(TINY, arch="fasterrcnn"),
    replace(TINY, arch="fcos", backbone="timm:test_resnet"),
    DetectorConfig(arch="ssdlite320_mobilenet_v3_large", weights="none", size=SIZE),
]
LARGE = [
    DetectorConfig(arch=arch, weights="none", size=SIZE)
    for arch in (
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
    )
]
X = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
TARGETS = [
    Target(torch.tensor([[4.0, 4, 20, 24], [30, 2, 60, 30]]), torch.tensor([1, 0])),
    Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
]


def name(config: DetectorConfig) -> str:
    return f"{config.arch}-{config.backbone}".replace(":", "-")


@pytest.mark.parametrize(
    "config", [*SMALL, *(pytest.param(c, marks=pytest.mark.slow) for c in LARGE)], ids=name
)
def test_losses_boxes_and_folder(config, tmp_path):
    net = toy_net(replace(config, score=0.0))
    losses, deepest = net(X, TARGETS)
    assert (
        all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
        and deepest.shape[0] == 2
        and deepest.ndim == 4
    )
    total(losses).backward()
    ids = [{id(p) for p in group} for group in (net.backbone_parameters(), net.head_parameters())]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == {id(p) for p in net.parameters() if p.requires_grad}
    assert all(
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters() if id(p) in group)
        for group in ids
    )
    net.eval()
    with torch.no_grad():
        before = net(X)
    assert len(before) == 2
    for d in before:
        assert len(d.boxes) == len(d.labels) == len(d.scores) <= config.detections
        assert ((d.boxes >= 0) & (d.boxes <= torch.tensor([64, 32, 64, 32]))).all()
    save_detector(net, tmp_path, config, TABLE, {"method": "both"})
    again, known, classes, extra = load_detector(tmp_path, thresholds=replace(config, score=0.0))
    assert (
        not again.training
        and classes == TABLE
        and extra == {"method": "both"}
        and replace(known, score=config.score)
        == replace(strict_precision(with_normalisation(config)), weights="none")
    )
    with torch.no_grad():
        assert all(
            torch.equal(p, q)
            for a, b in zip(before, again(X), strict=True)
            for p, q in zip(a, b, strict=True)
        )
    assert "object-detection" in (tmp_path / "README.md").read_text()


def test_no_side_of_a_box_starts_dead():
    net = toy_net()
    with torch.no_grad():
        distances = net.model.head.regression_head(list(net.model.backbone(X).values()))[0]
    assert (distances > 0).all()


def yolos(labels: int):
    """A softmax with 'no object' last."""
    from transformers import YolosConfig, YolosForObjectDetection

    return YolosForObjectDetection(
        YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=list(SIZE),
            patch_size=16,
            num_detection_tokens=10,
            num_labels=labels,
        )
    )


def rt_detr(labels: int):
    """A sigmoid a class, and weights that share tensors."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    body = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=body,
            encoder_hidden_dim=16,
            encoder_in_channels=[16] * 3,
            encoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_in_channels=[16] * 3,
            d_model=16,
            num_queries=10,
            decoder_ffn_dim=16,
            decoder_layers=2,
            decoder_attention_heads=2,
            num_labels=labels,
            num_denoising=2,
        )
    )


@pytest.mark.parametrize("make", [yolos, pytest.param(rt_detr, marks=pytest.mark.slow)])
def test_transformers_detectors(make, tmp_path):
    torch.manual_seed(0)
    original = make(5)
    original.save_pretrained(tmp_path / "published")
    config = DetectorConfig(
        arch="transformers", backbone=str(tmp_path / "published"), weights="coco", size=SIZE, score=0.0
    )
    net = build_detector(config, 2)
    assert isinstance(net, TransformersDetector)
    own, published = net.model.state_dict(), original.state_dict()
    kept = [k for k in own if k in published and own[k].shape == published[k].shape]
    assert len(kept) > 0.8 * len(own) and all(
        torch.equal(own[k], published[k]) for k in kept if own[k].is_floating_point() and "backbone" in k
    )
    losses, deepest = net(X, TARGETS)
    assert deepest is None
    total(losses).backward()
    save_detector(net.eval(), tmp_path / "own", config, TABLE)
    (tmp_path / "published" / "model.safetensors").unlink()
    again, known, _, _ = load_detector(tmp_path / "own")
    assert (
        str(tmp_path) not in (tmp_path / "own" / "detector.json").read_text()
        and known.backbone == "published"
    )
    with torch.no_grad():
        a, b = net(X), again(X)
    assert all(torch.equal(p, q) for d, e in zip(a, b, strict=True) for p, q in zip(d, e, strict=True))
    assert all(
        0 <= d.labels.min() and d.labels.max() < 2 and (d.scores[1:] <= d.scores[:-1]).all() for d in a
    )


def test_weights_of_another_class_count_start_the_class_layers_anew(tmp_path):
    five = toy_net(classes=5, seed=3)
    save_detector(five, tmp_path, TINY, TABLE)
    net = build_detector(replace(TINY, weights=str(tmp_path)), 2)
    own, theirs = net.state_dict(), five.state_dict()
    other = {k for k in own if own[k].shape != theirs[k].shape}
    assert other == {
        "model.head.classification_head.cls_logits.weight",
        "model.head.classification_head.cls_logits.bias",
    }
    assert all(torch.equal(own[k], theirs[k]) for k in own if k not in other)
    torch.save(
        {k.removeprefix("model."): v for k, v in theirs.items()}, tmp_path / "plain.pth"
    )  # as torchvision names them
    again = build_detector(replace(TINY, weights=str(tmp_path / "plain.pth")), 5).state_dict()
    assert all(torch.equal(again[k], theirs[k]) for k in theirs)
    with pytest.raises(WeightsError, match="do not fit TorchvisionDetector"):
        build_detector(replace(TINY, arch="retinanet", weights=str(tmp_path / "plain.pth")), 5)


def test_published_weights_need_a_network_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(
        WeightsError,
        match="coco weights of ssdlite320_mobilenet_v3_large could not be loaded .*detector.weights",
    ):
        build_detector(DetectorConfig(arch="ssdlite320_mobilenet_v3_large", size=SIZE), 2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (DetectorConfig(arch="fcos"), "needs one: tiny, resnet50"),
        (DetectorConfig(arch="fcos", backbone="tiny"), "nobody publishes a fcos on tiny"),
        (DetectorConfig(arch="fcos", backbone="tiny", weights="imagenet"), "no published weights: give none"),
        (DetectorConfig(backbone="resnet50"), "has its own: leave it empty"),
        (DetectorConfig(arch="ssdlite320_mobilenet_v3_large", weights="imagenet"), "never published alone"),
        (DetectorConfig(arch="transformers"), "name a model folder or hub id"),
        (DetectorConfig(arch="transformers", backbone="a/b", weights="imagenet"), "comes whole"),
        (DetectorConfig(mean=(0.5,)), "three values each"),
    ],
)
def test_what_cannot_be_made_is_said_while_planning(config, said):
    with pytest.raises(RecipeError, match=said):
        check_detector(config)


def test_bad_weights_and_folders(tmp_path):
    for weights, said in (
        ("absent.pth", "no detector weights at"),
        (str(tmp_path), "holds no detector.json"),
        (__file__, "none of the known endings"),
    ):
        with pytest.raises(WeightsError, match=said):
            check_detector(replace(TINY, weights=weights))
    save_detector(toy_net(), tmp_path, TINY, TABLE)
    with pytest.raises(WeightsError, match="holds a fcos detector, but detector.arch is retinanet"):
        check_detector(replace(TINY, arch="retinanet", weights=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(RecipeError, match="BertModel, which is no object detector"):
        check_detector(DetectorConfig(arch="transformers", backbone=str(tmp_path)))
    good = (tmp_path / "detector.json").read_text()
    for damaged in ("{", good.replace('"format": 1', '"format": 7'), good.replace('"facts"', '"fact"')):
        (tmp_path / "detector.json").write_text(damaged)
        with pytest.raises(WeightsError, match="train (it|the detector) again"):
            load_detector(tmp_path)


def test_weights_count_by_revision_not_by_path(tmp_path):
    assert detector_revisions(TINY) == {}
    assert detector_revisions(DetectorConfig()) == {
        "detector": "torchvision:FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1"
    }
    save_detector(toy_net(), tmp_path / "a", TINY, TABLE)
    save_detector(toy_net(), tmp_path / "b", TINY, TABLE)
    a, b = (detector_revisions(replace(TINY, weights=str(tmp_path / x))) for x in "ab")
    assert a == b and a["weights"].startswith("sha256:")
