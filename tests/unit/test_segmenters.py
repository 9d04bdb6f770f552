"""Segmentation networks: their parts against references, weights of every kind, refusals, folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.leniency import lenient
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.classifier import create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.segmentation.backbones import ResNet
from diffadapt.models.segmentation.build import build_segmenter
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.deeplabv3plus import ASPP, DeepLabHead, PooledImage
from diffadapt.models.segmentation.folder import load_segmenter, save_segmenter
from diffadapt.models.segmentation.inputs import segment, to_input
from diffadapt.models.segmentation.refinenet import ChainedPooling, ResidualUnit
from diffadapt.models.segmentation.segformer import MlpHead, mix_transformer
from diffadapt.models.segmentation.source import (
    check_segmenter,
    segmenter_identity,
    segmenter_revisions,
    torchvision_file,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TINY = SegmenterConfig(backbone="timm:cifar_resnet8", weights="none", width=16, size=(32, 64))
MIT = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4])


@pytest.fixture
def segformer_folder(tmp_path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(
        SegformerConfig(**MIT, decoder_hidden_size=16, num_labels=7)
    ).eval()
    model.save_pretrained(tmp_path / "mit")
    return tmp_path / "mit", model


@pytest.mark.parametrize(
    ("arch", "backbone", "millions"),
    [
        ("deeplabv3plus", "resnet50", 39.76),
        ("refinenet", "resnet50", 99.06),
        ("deeplabv3plus_2conv", "resnet50", 40.35),
        ("refinenet_2pool", "resnet50", 90.81),
        ("segformer", "nvidia/mit-b0", 3.72),
        ("segformer", "nvidia/mit-b2", 27.36),
    ],
)
def test_parameters_at_published_size(arch, backbone, millions):
    with torch.device("meta"):
        net = build_segmenter(SegmenterConfig(arch=arch, backbone=backbone, weights="none"), 19)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_resnet_gives_torchvisions_maps_from_torchvisions_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(num_classes=3).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, tmp_path / "net.pth"
    )
    config = SegmenterConfig(weights=str(tmp_path / "net.pth"), size=(64, 64), width=16)
    with pytest.warns(UserWarning, match="no statistics"):
        net = build_segmenter(config, 19).eval()
    x, maps = torch.randn(1, 3, 65, 97), {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(reference, name).register_forward_hook(lambda m, i, o, name=name: maps.__setitem__(name, o))
    with torch.no_grad():
        reference(x)
        ours = net.backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, maps.values(), strict=True))
    assert [m.shape[1] for m in ours] == list(ResNet.channels) and ours[-1].shape[-2:] == (3, 4)
    assert segmenter_identity(config) == segmenter_identity(
        replace(config, weights=str(tmp_path / "other.pth"))
    )
    # the published file is the same kind of file in torch.hub's cache
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    published = replace(config, weights="imagenet")
    with pytest.raises(WeightsError, match="resnet50-11ad3fa6.pth"):
        check_segmenter(published)
    with lenient() as notes:
        check_segmenter(published)
        assert segmenter_revisions(published) == {"backbone": "torchvision:resnet50-11ad3fa6"}
    assert len(notes) == 1
    _, place = torchvision_file("resnet50")
    place.parent.mkdir(parents=True)
    (tmp_path / "net.pth").rename(place)
    check_segmenter(published)
    with torch.no_grad():
        assert torch.equal(build_segmenter(published, 19).eval().backbone(x)[-1], ours[-1])
    with pytest.raises(WeightsError, match="do not fit ResNet"):
        build_segmenter(replace(config, backbone="resnet101", weights=str(place)), 19)


def test_aspp_is_torchvisions_of_deeplabv3():
    from torchvision.models.segmentation.deeplabv3 import ASPP as Reference

    torch.manual_seed(0)
    reference, ours = Reference(24, [6, 12, 18], 16).eval(), ASPP(24, 16, 0.1).eval()
    state = [v for k, v in reference.state_dict().items()]
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    x = torch.randn(2, 24, 13, 21)
    with torch.no_grad():
        assert torch.allclose(ours(x), reference(x), atol=1e-6)


def test_deeplab_head_takes_48_low_level_channels_of_stride_4_and_a_batch_of_one():
    head = DeepLabHead((64, 256, 512, 2048), (2, 4, 8, 32), 20)
    assert head.low == 1 and head.reduce[0].out_channels == 48 and head.decoder[0][0].in_channels == 256 + 48
    pool = PooledImage(4, 6).train()
    x = torch.randn(1, 4, 5, 7)
    before = pool.norm.running_mean.clone()
    y = pool(x)
    assert torch.equal(pool.norm.running_mean, before) and torch.allclose(y, pool.eval()(x))


def test_parts_of_refinenet():
    unit, chain = ResidualUnit(4), ChainedPooling(4, 2)
    x = torch.randn(1, 4, 9, 11)
    for conv in (unit.conv2, *chain.convs):
        torch.nn.init.zeros_(conv.weight)
    torch.nn.init.zeros_(unit.conv2.bias)
    assert torch.equal(unit(x), x) and torch.equal(chain(x), x.relu())
    for conv in chain.convs:  # identity convolutions: x + its maximum over 5 x 5 + that over 9 x 9
        torch.nn.init.dirac_(conv.weight)
    pooled = torch.nn.functional.max_pool2d(x.relu(), 9, 1, 4)
    assert torch.allclose(chain(x), x.relu() + torch.nn.functional.max_pool2d(x.relu(), 5, 1, 2) + pooled)


def test_segformer_equals_transformers(segformer_folder):
    folder, reference = segformer_folder
    backbone, facts = mix_transformer(str(folder), "imagenet")
    head = MlpHead(backbone.channels, 7, facts["decoder_hidden_size"])
    state = [
        v.view(w.shape)
        for v, w in zip(reference.decode_head.state_dict().values(), head.state_dict().values(), strict=True)
    ]
    head.load_state_dict(dict(zip(head.state_dict(), state, strict=True)))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(head.eval()(backbone.eval()(x)), reference(x).logits, atol=1e-5)


def test_segformers_are_stored_under_published_names(segformer_folder, tmp_path):
    folder, _ = segformer_folder
    config = SegmenterConfig(arch="segformer", backbone=str(folder), frozen=True, size=(32, 64))
    check_segmenter(config)
    net = build_segmenter(config, 3)
    table = ClassTable("t", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), (0, 1, 2), (0, 1, 2))
    save_segmenter(net, tmp_path / "fit", config, table)
    published = {
        f"backbone.{k.removeprefix('segformer.')}"
        for k in load_file(folder / "model.safetensors")
        if not k.startswith("decode_head")
    }
    assert published <= set(load_file(tmp_path / "fit" / "model.safetensors"))
    loaded, known, _, _ = load_segmenter(tmp_path / "fit")
    assert known.backbone == "mit" and list(loaded.backbone_parameters()) == []


def test_segformer_weights_of_another_network_are_refused(segformer_folder, tmp_path):
    folder, _ = segformer_folder
    config = SegmenterConfig(arch="segformer", backbone=str(folder), size=(32, 64))
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "block.3" not in k},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(WeightsError, match="lacks .* of the encoder's parameters"):
        build_segmenter(config, 3)
    save_file(
        {k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(WeightsError, match="NaN"):
        build_segmenter(config, 3)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="could not be loaded"):
        build_segmenter(config, 3)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match="holds no SegFormer"):
        check_segmenter(replace(config, weights="none"))
    with pytest.raises(WeightsError, match="nvidia/mit-b2"):  # offline, and not in the cache
        build_segmenter(replace(config, backbone="nvidia/mit-b2"), 3)


def test_timm_folders_and_files_give_the_backbone(tmp_path):
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 5).eval()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    export_classifier(
        model, tmp_path / "folder", "cifar_resnet8", ClassifierConfig(name="train"), list("abcde")
    )
    x = torch.randn(1, 3, 33, 65)
    for name in ("net.pt", "folder"):
        config = replace(TINY, weights=str(tmp_path / name), frozen=True)
        check_segmenter(config)
        with torch.no_grad():
            assert torch.equal(build_segmenter(config, 3).backbone(x)[-1], model.forward_features(x))
    one, two = (segmenter_revisions(replace(TINY, weights=str(tmp_path / n))) for n in ("net.pt", "folder"))
    assert one != two and one["backbone"].startswith("sha256:") and segmenter_revisions(TINY) == {}
    (tmp_path / "net.pt").rename(tmp_path / "elsewhere.pt")
    moved = replace(TINY, weights=str(tmp_path / "elsewhere.pt"))
    assert segmenter_identity(moved) == segmenter_identity(replace(TINY, weights="gone.pt"))
    with pytest.raises(
        WeightsError, match=r"holds a cifar_resnet8, .* give segmenter\.backbone timm:cifar_resnet8"
    ):
        check_segmenter(replace(TINY, backbone="timm:resnet18", weights=str(tmp_path / "folder")))
    with pytest.raises(WeightsError, match="do not fit"):
        build_segmenter(replace(TINY, backbone="timm:cifar_resnet20", weights=moved.weights), 3)
    torch.save({k: v * torch.nan for k, v in model.state_dict().items()}, tmp_path / "nan.pt")
    with pytest.raises(WeightsError, match="NaN"):
        build_segmenter(replace(TINY, weights=str(tmp_path / "nan.pt")), 3)


def test_imagenet_mobilenet_from_integers_is_a_backbone(tmp_path):
    place = SHARED / "weights" / "mobilenet_v2_imagenet_q8"
    if not place.is_dir():
        pytest.skip("the shared MobileNetV2 is not here")
    import warnings

    from diffadapt.models.importers.mobilenet import import_mobilenet

    grey = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8) for _ in range(4)]
    config = replace(TINY, backbone="timm:mobilenetv2_100", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    import_mobilenet(str(place), str(tmp_path / "folded"))
    with pytest.warns(UserWarning, match="no statistics"):
        build_segmenter(replace(config, weights=str(tmp_path / "folded")), 11)
    import_mobilenet(str(place), str(tmp_path / "calibrated"), grey)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = build_segmenter(replace(config, weights=str(tmp_path / "calibrated")), 11)
    assert net.facts["args"]["pad_type"] == "same" and net(torch.randn(2, 3, 65, 97))[1].shape == (
        2,
        320,
        3,
        4,
    )


FORMER = (("deeplabv3plus_2conv", "deeplabv3plus"), ("refinenet_2pool", "refinenet"))


@pytest.mark.parametrize(("arch", "before"), FORMER)
def test_a_folder_of_format_1_gives_the_network_that_its_name_meant(tmp_path, arch, before):
    """What was fitted before the names got the published networks goes on predicting what it did."""
    torch.manual_seed(0)
    config, table = replace(TINY, arch=arch), builtin("camvid")
    net = build_segmenter(config, len(table.names)).eval()
    folder = save_segmenter(net, tmp_path / "fit", config, table)
    marker = json.loads((folder / "segmenter.json").read_text())
    assert marker["format"] == 2 and marker["config"]["arch"] == arch
    marker |= {"format": 1, "config": {**marker["config"], "arch": before, "dropout": 0.1}}
    (folder / "segmenter.json").write_text(json.dumps(marker))
    loaded, known, _, _ = load_segmenter(folder)
    x = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], net(x)[0])
    assert known.arch == arch
    again = save_segmenter(loaded, tmp_path / "again", known, table)
    assert json.loads((again / "segmenter.json").read_text())["config"]["arch"] == arch
    (folder / "segmenter.json").write_text(json.dumps({**marker, "format": 3}))
    with pytest.raises(WeightsError, match="not of format 2.*nor of format 1"):
        load_segmenter(folder)


@pytest.mark.parametrize(("arch", "before"), FORMER)
def test_digests_know_a_network_by_what_it_computes(arch, before):
    """Fits of the variants are those of the former names, which their stores have; the published networks are
    new ones."""
    kept, published = (segmenter_identity(replace(TINY, arch=name)) for name in (arch, before))
    assert (kept["arch"], kept["dropout"]) == (before, 0.1)
    assert published["arch"] not in (arch, before) and published["dropout"] == 0.5
    assert segmenter_identity(replace(TINY, arch="segformer"))["arch"] == "segformer"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(backbone="resnet5"), RecipeError, "Did you mean 'resnet50'"),
        (dict(backbone="timm:resnet18d2"), RecipeError, "no architecture"),
        (dict(backbone="timm:resnet18", weights="imagenet"), WeightsError, r"name one of resnet18\."),
        (dict(backbone="timm:vit_tiny_patch16_224"), RecipeError, "not a pyramid|cannot give feature maps"),
        (dict(arch="linear", backbone="resnet18"), RecipeError, "no plain vision transformer"),
        (dict(arch="linear", backbone="test_vit", layers=40), RecipeError, r"segmenter\.layers is 40"),
        (dict(arch="segformer", backbone="mit-b2"), RecipeError, "Did you mean 'nvidia/mit-b2'"),
        (dict(arch="segformer", backbone="other/mit-b9"), RecipeError, "not known without its weights"),
        (dict(weights="image-net"), WeightsError, "Did you mean 'imagenet'"),
        (dict(size=(16, 64)), RecipeError, "at least 32"),
        (dict(std=(1.0, 0.0, 1.0)), RecipeError, "three values"),
    ],
)
def test_refusals_say_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        build_segmenter(replace(TINY, **change), 3)


def test_missing_weights_are_noted_when_planning_leniently():
    config = replace(TINY, weights="gone.pth")
    with lenient() as notes:
        check_segmenter(config)
        assert segmenter_revisions(config)["backbone"].startswith("missing:")
    assert len(notes) == 1 and "gone.pth" in notes[0]


def test_planning_knows_no_torch():
    import subprocess
    import sys

    code = """
import sys
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.source import check_segmenter, segmenter_identity, segmenter_revisions
for config in (SegmenterConfig(weights="none"),
               SegmenterConfig(arch="segformer", backbone="nvidia/mit-b0", weights="none")):
    check_segmenter(config); segmenter_identity(config); segmenter_revisions(config)
print(sorted({"torch", "timm", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_position_embeddings_follow_the_image_and_padding_is_cropped():
    config = SegmenterConfig(arch="linear", backbone="test_vit", weights="none", layers=3)
    net = build_segmenter(config, 3).eval()
    assert net.head.classifier.in_channels == 3 * 64 and net.backbone.multiple == 16
    x = torch.randn(1, 3, 48, 80)
    padded = torch.nn.functional.pad(x[..., :40, :70], (0, 10, 0, 8))
    with torch.no_grad():
        assert torch.equal(net(x[..., :40, :70])[0], net(padded)[0][..., :40, :70])
        assert net(x)[1].shape == (1, 64, 3, 5)


def test_damaged_folders_are_refused(tmp_path):
    table = builtin("camvid")
    net = build_segmenter(TINY, len(table.names))
    folder = save_segmenter(
        net,
        tmp_path / "fit",
        TINY,
        table,
        {"method": "zodi", "selection": "oracle", "metrics": {"mean IoU": 41.25}, "note": "a|b"},
    )
    card = (folder / "README.md").read_text()
    assert (
        "**Oracle" in card
        and "41.25" in card
        and "a\\|b" in card
        and "Pavement" in card
        and "load_segmenter" in card
    )
    marker = json.loads((folder / "segmenter.json").read_text())
    with pytest.raises(WeightsError, match="holds no segmenter"):
        load_segmenter(tmp_path)
    for change, message in (
        ({"format": 9}, "not of format"),
        ({"classes": {**marker["classes"], "names": ["one"]}}, "do not fit|cannot be rebuilt"),
        ({"config": {**marker["config"], "colour": 1}}, "describes no segmenter"),
    ):
        (folder / "segmenter.json").write_text(json.dumps({**marker, **change}))
        with pytest.raises(WeightsError, match=message):
            load_segmenter(folder)
    (folder / "segmenter.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_segmenter(folder)


def test_label_maps_come_back_at_the_images_size():
    net = build_segmenter(replace(TINY, batch_size=2), 3).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 50), (33, 65), (32, 64))]
    labels = segment(net, TINY, images)
    assert [a.shape for a in labels] == [(40, 50), (33, 65), (32, 64)] and all(
        a.dtype == np.uint8 and a.max() <= 3 for a in labels
    )
    x = to_input(images[2:], TINY)
    assert torch.allclose(x[0, 0, 5, 6], torch.tensor((images[2][5, 6, 0] / 255 - 0.485) / 0.229).float())
    with torch.no_grad():
        assert np.array_equal(labels[2], net(x)[0].argmax(1)[0].numpy())
