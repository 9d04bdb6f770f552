"""Heads as folders, and joined with a backbone to one classifier."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.backbone import load_backbone
from diffadapt.models.classifier import load_classifier
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.mlp_head import MlpHead, build_head, head_spec, join, load_head, save_head
from diffadapt.tasks.classification.gradcam import gradcam

PLATFORM = Path(__file__).resolve().parents[2] / "platform"
NAMES = list("abcdefg")


def deep(width: int) -> nn.Module:
    """A head as methods have it: bottleneck, dropout, a nested Sequential, an Identity, statistics that are
    not the initial ones."""
    torch.manual_seed(1)
    head = nn.Sequential(
        nn.Sequential(nn.Linear(width, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU()),
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Linear(12, 7),
    )
    head[0][1].running_mean.normal_()
    head[0][1].running_var.uniform_(0.5, 2)
    return head.eval()


def settings(arch: str, crop: int, channels: int) -> BackboneConfig:
    return BackboneConfig(
        name="train",
        arch=arch,
        resize=0,
        crop=crop,
        in_channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def plain(folder: Path, config: BackboneConfig) -> ClassifierConfig:
    return ClassifierConfig(
        name=str(folder),
        resize=0,
        crop=config.crop,
        in_channels=config.in_channels,
        mean=config.mean,
        std=config.std,
    )


def test_a_head_comes_back_as_it_was(tmp_path):
    head = deep(5)
    spec = head_spec(head)
    assert [layer["kind"] for layer in spec] == ["linear", "batch_norm", "relu", "dropout", "linear"]
    assert head_spec(build_head(json.loads(json.dumps(spec)))) == spec
    save_head(tmp_path, head, 5, NAMES, {"selection": "oracle"})
    again, info = load_head(tmp_path)
    x = torch.randn(9, 5)
    assert torch.equal(again(x), head(x)) and not again.training
    assert (
        info["label_names"] == NAMES
        and info["width"] == 5
        and info["num_classes"] == 7
        and info["diffadapt"] == {"selection": "oracle"}
    )
    assert (tmp_path / "head.safetensors").stat().st_mode & 0o044 == 0o044
    save_head(tmp_path / "numbers", nn.Linear(3, 2), 3, 2)
    assert load_head(tmp_path / "numbers")[1]["label_names"] == ["0", "1"]


def test_what_cannot_be_a_head(tmp_path):
    with pytest.raises(RecipeError, match="holds a GELU"):
        head_spec(nn.Sequential(nn.Linear(2, 2), nn.GELU()))
    with pytest.raises(RecipeError, match="gives 4 logits, but there are 7 classes"):
        save_head(tmp_path, nn.Linear(3, 4), 3, NAMES)
    with pytest.raises(WeightsError, match="holds no head"):
        load_head(tmp_path)
    save_head(tmp_path, nn.Linear(3, 7), 3, NAMES)
    info = json.loads((tmp_path / "head.json").read_text())
    for change, sentence in (
        ({"format": 99}, "format 99"),
        ({"layers": [{"kind": "rnn"}]}, "damaged"),
        ({"layers": [{**info["layers"][0], "out": 6}]}, "of another shape"),
    ):
        (tmp_path / "head.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(WeightsError, match=sentence):
            load_head(tmp_path)


@pytest.mark.parametrize(
    ("arch", "crop", "channels"),
    [
        ("cifar_resnet8", 16, 1),
        ("resnet10t", 64, 3),
        ("mobilenetv3_small_050", 64, 3),
        ("vit_tiny_patch16_224", 48, 3),
        ("deit_tiny_distilled_patch16_224", 32, 3),
        ("convnext_atto", 64, 3),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_joined_folders_give_what_backbone_and_head_give(tmp_path, arch, crop, channels, kind):
    config = settings(arch, crop, channels)
    torch.manual_seed(0)
    body = load_backbone(config)
    head = nn.Linear(body.width, 7) if kind == "linear" else deep(body.width)
    model, name, args = join(body.module, body.arch, head, 7, channels)
    assert name == (arch if kind == "linear" else "mlp_head")
    export_classifier(model, tmp_path, name, config, NAMES, model_args=args)
    x = torch.randn(2, channels, crop, crop)
    with torch.inference_mode():
        wanted = head(body.module(x))
        for other in (
            model,
            load_classifier(plain(tmp_path, config)),
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(),
        ):
            assert torch.allclose(other(x), wanted, atol=1e-5), type(other)
        again = load_backbone(config, folder=str(tmp_path))
        assert (again.arch, again.width) == (
            body.arch,
            body.width,
        ) and body.model_args.items() <= again.model_args.items()
        assert torch.equal(again.module(x), body.module(x))


def test_timm_alone_loads_a_plain_folder_and_one_import_the_other(tmp_path):
    config = settings("mobilenetv3_small_050", 64, 3)
    body = load_backbone(config)
    for name, head in (("plain", nn.Linear(body.width, 7)), ("deep", deep(body.width))):
        model, arch, args = join(body.module, body.arch, head, 7)
        export_classifier(model, tmp_path / name, arch, config, NAMES, model_args=args)
    code = """
import sys, timm, torch
def load(name):
    return timm.create_model("local-dir:" + sys.argv[1] + "/" + name, pretrained=True)
assert load("plain").num_classes == 7 and "diffadapt" not in sys.modules
import diffadapt.models.mlp_head
assert load("deep")(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PLATFORM), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_an_mlp_head_has_the_methods_of_a_timm_model():
    config = settings("vit_tiny_patch16_224", 32, 3)
    body = load_backbone(config)
    model, _, args = join(body.module, body.arch, deep(body.width), 7)
    assert isinstance(model, MlpHead) and args["img_size"] == 32
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, model.num_features) and torch.allclose(
        model.get_classifier()(features), model(x), atol=1e-5
    )
    heat = gradcam(model, x)  # reads blocks and num_prefix_tokens of the body
    assert heat.shape == (2, 32, 32) and torch.isfinite(heat).all()
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert torch.allclose(model(x), features, atol=1e-5)


def test_the_card_of_an_oracle_says_so(tmp_path):
    model, arch, args = join(
        load_backbone(settings("cifar_resnet8", 16, 1)).module, "cifar_resnet8", deep(64), 7, 1
    )
    config = settings("cifar_resnet8", 16, 1)
    export_classifier(
        model,
        tmp_path,
        arch,
        config,
        NAMES,
        {"selection": "oracle", "generator": "stable-diffusion-v1-5"},
        args,
    )
    card = (tmp_path / "README.md").read_text()
    assert (
        "**Oracle" in card
        and "Synthetic training images were made by stable" in card
        and "import diffadapt.models.mlp" in card
    )
    assert json.loads((tmp_path / "config.json").read_text())["diffadapt"]["selection"] == "oracle"
    export_classifier(model, tmp_path, arch, config, NAMES, {"selection": "ensv"}, args)
    card = (tmp_path / "README.md").read_text()
    assert "Oracle" not in card and "by ensv" in card


def test_a_process_that_made_no_such_model_loads_it(tmp_path):
    """As one does that goes on after a kill between a fit and its predictions, or that predicts alone."""
    config = settings("cifar_resnet8", 16, 1)
    body = load_backbone(config)
    model, name, args = join(body.module, body.arch, deep(body.width), 7, 1)
    export_classifier(model, tmp_path, name, config, NAMES, model_args=args)
    program = (
        f"import sys; sys.path.insert(0, {str(PLATFORM)!r})\n"
        "from diffadapt.models.classifier import load_classifier\n"
        "from diffadapt.models.config import ClassifierConfig\n"
        f"print(load_classifier(ClassifierConfig(name={str(tmp_path)!r}, in_channels=1), 7).arch)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == name == "mlp_head"
