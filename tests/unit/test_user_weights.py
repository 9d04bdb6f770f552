"""Weights as public tools leave them: checkpoints with wrappers' names and settings beside the tensors, other
libraries' DINOv2, and what is refused while planning."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import diffadapt.models.cifar_resnet  # noqa: F401  # registers ours
from diffadapt.core.errors import DataError, UnfitError, WeightsError
from diffadapt.core.leniency import lenient
from diffadapt.models.classifier import load_classifier
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.models.detection.config import DetectorConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.given import segmenter_notes
from diffadapt.models.state_dict import read_checkpoint
from diffadapt.stages.models import classifier_notes, classifier_revisions

ARCH = "cifar_resnet8"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=3).eval()


def config(path: Path, **changes) -> ClassifierConfig:
    return ClassifierConfig(**{"name": str(path), "arch": ARCH, "crop": 32, **changes})


def under(prefix: str, state: dict) -> dict:
    return {prefix + k: v for k, v in state.items()}


class Lightning:
    pass


def saved(path: Path, name: str, net) -> None:
    """A checkpoint as the public script or library of this name writes it."""
    state, zeros = net.state_dict(), {k: v * 0 for k, v in net.state_dict().items()}
    made = {
        "swa": torch.optim.swa_utils.AveragedModel(net).state_dict(),
        "lightning": {
            "epoch": 3,
            "state_dict": under("model.", state) | {"criterion.weight": torch.ones(3)},
            "pytorch-lightning_version": "2.4",
        },
        "loss_weight": under("model.", state) | {"loss_weight": torch.ones(3)},
        "torch.compile under DDP": {"state_dict": under("module._orig_mod.", state), "epoch": 1},
        "compiled": under("_orig_mod.", state),
        "numpy": {"state_dict": under("module.", state), "best_acc1": np.float64(71.3), "n": np.int64(3)},
        "namespace": {"model": state, "args": argparse.Namespace(lr=0.1, dirs=["a"])},
        "timm": {"model": state, "model_ema": zeros},
        "ema alone": {"ema": under("module.", state), "opt": {"state": {}, "param_groups": []}},
        "ema_pytorch": under("ema_model.", state)
        | {"initted": torch.tensor(True), "step": torch.tensor(7)}
        | under("online_model.", zeros),
        "thop": state | {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)},
        "flat with numbers": {**state, "epoch": 3},
    }
    torch.save(made[name], path)


WRAPPED = {
    "swa": "under 'module.' is taken, and 1 others set aside (n_averaged)",
    "lightning": "under 'model.' is taken, and 1 others set aside (criterion.weight)",
    "loss_weight": "others set aside (loss_weight)",
    "torch.compile under DDP": "",
    "compiled": "",
    "numpy": "",
    "namespace": "",
    "timm": "the part 'model' is taken, not the average in 'model_ema'",
    "ema alone": "",
    "ema_pytorch": "under 'ema_model.' is taken",
    "thop": "2 that are no parameters are set aside",
    "flat with numbers": "1 values that are no tensors are set aside (epoch)",
}


def test_a_stage_that_is_planned_asks_for_the_revision_once(tmp_path, net, monkeypatch):
    from diffadapt.models import classifier_source

    asked, plain = [], classifier_source.classifier_revision
    monkeypatch.setattr(classifier_source, "classifier_revision", lambda c: asked.append(c) or plain(c))
    saved(tmp_path / "x.pth", "swa", net)
    classifier_revisions(config(tmp_path / "x.pth"), False, 3)
    assert classifier_notes(config(tmp_path / "x.pth"), False) and len(asked) == 1


@pytest.mark.parametrize(
    "name, ending", [*((name, ".pth") for name in WRAPPED), ("lightning", ".ckpt"), ("swa", ".pth.tar")]
)
def test_wrappers_are_understood_and_said(tmp_path, net, name, ending):
    clause = WRAPPED[name]
    path = tmp_path / f"x{ending}"
    saved(path, name, net)
    found = load_classifier(config(path), 3).model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in net.state_dict().items())
    notes = classifier_notes(config(path), False)
    assert bool(notes) == bool(clause) and clause in "".join(notes)
    assert str(path) in "".join(notes) or not notes


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda s: {k.replace("linear.", "linear.1."): v for k, v in s.items()}, ["unexpected", "linear.1"]),
        (lambda s: {k: v for k, v in s.items() if "layer3.0.conv2" not in k}, ["missing", "layer3.0.conv2"]),
        (lambda s: {**s, "layer1.7.conv1.weight": torch.ones(1)}, ["unexpected", "layer1.7"]),
        (
            lambda s: {**s, "conv1.weight": torch.ones(16, 1, 3, 3)},
            ["of another shape", "wanted (16, 3, 3, 3)"],
        ),
    ],
    ids=["head", "missing", "deeper", "grey"],
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_does_not_fit_is_refused_while_planning(tmp_path, net, change, parts, ending):
    path = tmp_path / f"x{ending}"
    state = change(net.state_dict())
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    with lenient(), pytest.raises(WeightsError) as planned:
        classifier_revisions(config(path), False, 3)
    with pytest.raises(WeightsError) as run:
        load_classifier(config(path), 3)
    assert all(part in str(planned.value) for part in parts) and str(planned.value) == str(run.value)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_so_are_integers_of_quantised_files(tmp_path, net, ending):
    path = tmp_path / f"x{ending}"
    state = {k: (v * 50).to(torch.int8) if v.dim() > 1 else v for k, v in net.state_dict().items()}
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    with pytest.raises(WeightsError, match="hold integers .int8. for .* before quantisation"):
        classifier_revisions(config(path), False, 3)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    torch.save(half, path) if ending == ".pth" else save_file(half, path)
    assert classifier_revisions(config(path), False, 3)


@pytest.mark.parametrize("name", ["m.onnx", "m.gguf", "m.pkl", "folder"])
def test_what_is_there_and_cannot_be_used_is_not_missing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(b"x") if "." in name else None
    given = config(tmp_path / name)
    with lenient() as notes, pytest.raises(UnfitError):
        classifier_revisions(given, False)
    with lenient() as notes:  # which another machine may have
        classifier_revisions(config(tmp_path / "absent.pth"), False)
    assert len(notes) == 1


def test_so_are_other_classes_and_objects_and_broken_files(tmp_path, net):
    path = tmp_path / "x.pth"
    torch.save(net.state_dict(), path)
    with pytest.raises(DataError, match="has 3 classes but the data have 5"):
        classifier_revisions(config(path), False, 5)
    assert classifier_revisions(config(path), False, 3)["classifier"].startswith("sha256:")
    torch.save({"state_dict": net.state_dict(), "callback": Lightning()}, tmp_path / "object.pth")
    with pytest.raises(WeightsError, match=r"objects beside tensors \(.*Lightning\)"):
        classifier_revisions(config(tmp_path / "object.pth"), False)
    torch.save(net, tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="CifarResNet.*save its state_dict alone"):
        classifier_revisions(config(tmp_path / "whole.pth"), False)
    save_file(net.state_dict(), tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        classifier_revisions(config(tmp_path / "cut.safetensors"), False)


def test_a_folder_is_opened_while_planning_too(tmp_path, net):
    folder = tmp_path / "model"
    folder.mkdir()
    values = {"architecture": ARCH, "num_classes": 3, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (folder / "config.json").write_text(json.dumps(values))
    state = net.state_dict()
    save_file({k: v for k, v in state.items() if "layer2" not in k}, folder / "model.safetensors")
    given = ClassifierConfig(name=str(folder), crop=32)
    with pytest.raises(WeightsError, match="missing .*layer2"):
        classifier_revisions(given, False)
    save_file(state, folder / "model.safetensors")
    assert classifier_revisions(given, False, 3)
    with pytest.raises(DataError, match="has 3 classes"):
        classifier_revisions(given, False, 4)


def test_a_body_without_a_head_is_a_backbone(tmp_path, net):
    path = tmp_path / "body.pth"
    torch.save({k: v for k, v in net.state_dict().items() if not k.startswith("linear")}, path)
    from diffadapt.models.backbone import load_backbone

    body = load_backbone(BackboneConfig(name=str(path), arch=ARCH, crop=32))
    assert torch.equal(body.module.state_dict()["conv1.weight"], net.state_dict()["conv1.weight"])
    with pytest.raises(DataError, match="has 0 classes"):
        classifier_revisions(config(path), False, 3)


def test_segmenters_and_detectors_too(tmp_path):
    torch.manual_seed(0)
    body = timm.create_model("resnet18", num_classes=5)
    path = tmp_path / "swa.pth"
    torch.save({"n_averaged": torch.tensor(3)} | under("module.", body.state_dict()), path)
    given = SegmenterConfig(backbone="timm:resnet18", weights=str(path), size=(64, 64))
    assert "n_averaged" in "".join(segmenter_notes(given))
    from diffadapt.models.segmentation.timm_body import timm_body

    found = timm_body("resnet18", str(path))[0].state_dict()
    assert torch.equal(found["layer4.1.conv2.weight"], body.state_dict()["layer4.1.conv2.weight"])
    with pytest.raises(WeightsError, match="do not fit"):
        segmenter_notes(replace(given, backbone="timm:resnet34"))
    from diffadapt.models.detection.build import build_detector
    from diffadapt.models.detection.given import detector_notes

    tiny = DetectorConfig(arch="retinanet", backbone="tiny", weights="none", size=(64, 64))
    net = build_detector(tiny, 2)
    torch.save({"state_dict": under("module.", net.state_dict()), "epoch": 1}, path)
    again = build_detector(replace(tiny, weights=str(path)), 2).state_dict()
    assert all(torch.equal(again[k], v) for k, v in net.state_dict().items())
    assert detector_notes(replace(tiny, weights=str(path)), 2) == ()
    torch.save(body.state_dict(), path)
    with pytest.raises(WeightsError, match="do not fit"):
        detector_notes(replace(tiny, weights=str(path)), 2)


class TestDinov2:
    """Two layers of the small network; numbers are compared with transformers' own network."""

    @pytest.fixture(scope="class")
    def places(self, tmp_path_factory):
        """A transformers folder, and the same tensors as Meta's file has them, for each kind."""
        from transformers import (
            Dinov2Config,
            Dinov2Model,
            Dinov2WithRegistersConfig,
            Dinov2WithRegistersModel,
        )

        torch.manual_seed(0)
        result = {}
        kinds = {
            "plain": (Dinov2Config, Dinov2Model, {}),
            "registers": (
                Dinov2WithRegistersConfig,
                Dinov2WithRegistersModel,
                {"num_register_tokens": 4, "patch_size": 14},
            ),
        }
        for name, (settings, kind, more) in kinds.items():
            folder = tmp_path_factory.mktemp(name)
            values = settings(
                hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=56, **more
            )
            model = kind(values).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(0, 0.05)
            model.save_pretrained(folder)
            result[name] = (folder, model)
        return result

    @pytest.mark.parametrize("name", ["plain", "registers"])
    def test_folders_and_files_give_the_same_numbers(self, places, name, tmp_path):
        from diffadapt.models.importers.dinov2 import from_transformers
        from diffadapt.models.segmentation.timm_body import timm_body

        folder, reference = places[name]
        image = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = reference(pixel_values=image).last_hidden_state
        state = from_transformers(read_checkpoint(str(folder / "model.safetensors")).state)
        meta = tmp_path / "dinov2_vits14_pretrain.pth"
        torch.save(state, meta)
        arch = f"vit_small_patch14_{'reg4_' if name == 'registers' else ''}dinov2"
        for given in (
            BackboneConfig(name=str(folder), crop=56),
            BackboneConfig(name=str(meta), crop=56),
            BackboneConfig(name=str(meta), arch=arch, crop=56),
        ):
            loaded = load_classifier(given)
            assert loaded.arch == arch and classifier_notes(given, False) == ()
            with torch.no_grad():
                found = loaded.model.forward_features(image)
            assert float((found - wanted).abs().max()) < 1e-4
        wide = load_classifier(BackboneConfig(name=str(meta), crop=70)).model
        assert wide.patch_embed.grid_size == (5, 5)
        body, _ = timm_body(arch, str(folder), None, {"dynamic_img_size": True, "img_size": 56})
        with torch.no_grad():
            assert float((body.forward_features(image) - wanted).abs().max()) < 1e-4

    def test_other_sizes_are_one_sentence(self, tmp_path):
        values = {"model_type": "dinov2", "hidden_size": 32, "patch_size": 14}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(WeightsError, match="width 32.* none of the published"):
            classifier_revisions(ClassifierConfig(name=str(tmp_path)), False)
