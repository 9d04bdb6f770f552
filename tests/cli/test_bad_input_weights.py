"""Weights that are missing, damaged, of another architecture, or full of NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.badinput import Place, classifier_file, diffadapt, network_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_wrong_checkpoint_names_keys_and_shapes(place: Place) -> None:
    state = load_file(place.classifier)
    state["linear.extra"] = torch.zeros(3)
    state["conv1.weight"] = torch.zeros(7, 1, 3, 3)
    del state["layer1.0.conv1.weight"]
    save_file(state, place.folder / "wrong.safetensors")
    place.run("--classifier.name", place.folder / "wrong.safetensors").sentence(
        "1 missing (layer1.0.conv1.weight)",
        "1 unexpected (linear.extra)",
        "conv1.weight is (7, 1, 3, 3), wanted (16, 1, 3, 3)",
        "check the architecture",
    )
    assert place.stored("aligned") == []


def test_damaged_checkpoints(place: Place) -> None:
    for name in ("torn.safetensors", "torn.pth"):
        (place.folder / name).write_bytes(place.classifier.read_bytes()[:100])
        place.run("--classifier.name", place.folder / name).sentence(name, "is damaged")
    torch.save([1, 2, 3], place.folder / "list.pt")
    place.run("--classifier.name", place.folder / "list.pt").sentence("holds no state_dict")


def test_a_checkpoint_that_does_not_tell_its_architecture(place: Place) -> None:
    save_file({"a.weight": torch.zeros(2, 2)}, place.folder / "odd.safetensors")
    place.run("--classifier.name", place.folder / "odd.safetensors").sentence(
        "does not tell its architecture", "arch"
    )
    place.run("--classifier.arch", "resnet18").sentence("do not fit ResNet", "missing", "unexpected")


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        (
            "--classifier.name",
            "weights/none.pth",
            ("no classifier at 'weights/none.pth'", "existing folder or checkpoint"),
        ),
        ("--classifier.name", "model.onnx", (".onnx file", "safetensors")),
        (
            "--align.weights",
            "adm-256-uncond",
            ("256x256_diffusion_uncond.pt", "diffadapt weights import-adm"),
        ),
        ("--align.weights", "/no/where", ("no weights at '/no/where'", "hub id")),
        ("--align.weights", "embedded:digits-unt", ("shipped are", "did you mean 'digits-unet'")),
        (
            "--align.weights",
            "no-such-org/model",
            (
                "not in the local hub cache",
                "HF_HUB_OFFLINE",
                "hf download no-such-org/model",
                "give the folder with --align.weights",
            ),
        ),
        ("--classifier.name", "hf-hub:no-such-org/model", ("not in the local hub cache", "HF_HUB_OFFLINE")),
        ("--classifier.name", "resnet18.a1_in1k", ("timm/resnet18.a1_in1k", "not in the local hub cache")),
    ],
)
def test_missing_weights_stop_before_any_work(
    place: Place, offline: None, option: str, value: str, parts: tuple[str, ...]
) -> None:
    place.run(option, value).sentence(*parts)
    assert not list(place.root.rglob("*.parquet"))


def test_missing_generator(place: Place, offline: None) -> None:
    place.run_whole("--synth.weights", "facebook/DiT-XL-2-256", methods="sda").sentence(
        "facebook/DiT-XL-2-256", "not in the local hub cache"
    )
    plan = diffadapt("plan", "whole", "--root", place.root, "--synth.weights", "facebook/DiT-XL-2-256")
    assert plan.status == 0 and "Not at hand" in plan.output and "facebook/DiT-XL-2-256" in plan.output


def test_no_network(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    place.run("--align.weights", "no-such-org/model").sentence(
        "'no-such-org/model' could not be looked up", "network", "local folder"
    )


def test_folders_that_hold_another_model(place: Place) -> None:
    place.run("--align.weights", "embedded:digits-dit").sentence("embedded:digits-dit")
    place.run_whole("--synth.weights", "embedded:digits-unet", methods="sda").sentence("embedded:digits-unet")
    (place.folder / "empty").mkdir()
    place.run("--align.weights", place.folder / "empty").sentence("is empty", "give a folder")
    (place.folder / "empty" / "note.txt").write_text("text")
    place.run("--align.weights", place.folder / "empty").sentence(
        "No UNet2DModel could be loaded", "give a diffusers folder"
    )


def test_weights_with_nan_are_refused_when_they_are_loaded(place: Place) -> None:
    broken = network_folder(place.folder / "unet", "digits-unet", lambda v: v * float("nan"))
    place.run("--align.weights", broken).sentence("hold NaN or infinity", "conv_in")
    state = load_file(place.classifier)
    state["conv1.weight"][0, 0, 0, 0] = float("inf")
    save_file(state, place.folder / "inf.safetensors")
    place.run("--classifier.name", place.folder / "inf.safetensors").sentence(
        "hold NaN or infinity (in conv1.weight)"
    )


def test_imports_of_wrong_files(place: Place) -> None:
    for command in ("import-adm", "import-dit", "import-openmmlab"):
        diffadapt("weights", command).sentence("Give the checkpoint file")
        diffadapt("weights", command, place.folder / "none.pt").sentence("no file", "none.pt")
        other = diffadapt(
            "weights",
            command,
            classifier_file(place.folder / f"{command}.safetensors"),
            "--out",
            place.folder / "out",
        )
        other.sentence()
        assert not (place.folder / "out").exists()
