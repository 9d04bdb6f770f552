"""Loading, checking, creating and exporting classifiers."""

import io
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from diffadapt.core.errors import DataError, RecipeError, WeightsError
from diffadapt.models.card import classifier_card, escape
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.classifier_source import classifier_revision, locate
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.inputs import differences

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CIFAR = SHARED / "weights" / "cifar10_resnet_akamaster"


def save(model, path, wrap=None, prefix=""):
    state = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save(wrap(state) if wrap else state, path)
    return ClassifierConfig(name=str(path), resize=0, crop=16)


@pytest.mark.parametrize("depth", [8, 20, 32])
@pytest.mark.parametrize("size", [(16, 16), (17, 13)])
def test_cifar_resnets_take_any_size_and_channels(depth, size):
    model = create_model(f"cifar_resnet{depth}", 5, in_channels=1, drop_path=0.1).eval()
    x = torch.randn(2, 1, *size)
    features = model.forward_features(x)
    assert features.shape[1] == 64 and model.forward_head(features, pre_logits=True).shape == (2, 64)
    assert torch.equal(model.forward_head(features), model(x)) and model(x).shape == (2, 5)
    assert sum(1 for m in model.modules() if isinstance(m, torch.nn.Conv2d)) == depth - 1


def test_cifar_resnet_has_timms_feature_interface():
    model = timm.create_model("cifar_resnet8", features_only=True)
    model.eval()
    plain = create_model("cifar_resnet8", 10).eval()
    plain.load_state_dict({**plain.state_dict(), **model.state_dict()})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x)[-1], plain.forward_features(x))
    plain.reset_classifier(4)
    assert plain.get_classifier().out_features == 4 and plain(x).shape == (1, 4)


def test_drop_path_acts_in_training_only():
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 3, drop_path=0.9)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
@pytest.mark.parametrize(
    "wrap", [None, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": {"state_dict": s}}]
)
def test_bare_checkpoints_are_recognised(tmp_path, prefix, wrap):
    model = create_model("cifar_resnet20", 7).eval()
    classifier = load_classifier(save(model, tmp_path / "w.pth", wrap, prefix), num_classes=7)
    assert classifier.arch == "cifar_resnet20" and classifier.num_classes == 7
    assert classifier.revision.startswith("sha256:")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(classifier(x), model(x))


def test_safetensors_file_with_arch(tmp_path):
    model = timm.create_model("resnet10t", num_classes=4).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    config = ClassifierConfig(name=str(tmp_path / "w.safetensors"), arch="resnet10t")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_classifier(config)(x), model(x))
    with pytest.raises(WeightsError, match="does not tell its architecture"):
        load_classifier(ClassifierConfig(name=config.name))


def test_wrong_weights_name_keys_and_shapes(tmp_path):
    config = save(create_model("cifar_resnet20", 7), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing \(layer1.3.conv1.weight"):
        load_classifier(ClassifierConfig(name=config.name, arch="cifar_resnet32"))
    with pytest.raises(WeightsError, match=r"unexpected \(layer1.1.conv1.weight"):
        load_classifier(ClassifierConfig(name=config.name, arch="cifar_resnet8"))
    with pytest.raises(
        WeightsError, match=r"1 of another shape \(conv1.weight is \(16, 3, 3, 3\), wanted \(16, 1, 3, 3\)\)"
    ):
        load_classifier(ClassifierConfig(name=config.name, in_channels=1))
    with pytest.raises(DataError, match="7 classes but the data have 10"):
        load_classifier(config, num_classes=10)


def test_unreadable_files_and_names(tmp_path):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "empty.pth")
    torch.save(create_model("cifar_resnet8", 2), tmp_path / "pickled.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"xx")
    (tmp_path / "w.npz").write_bytes(b"")
    for name, words in (
        ("torn.pth", "cannot be read|Python objects"),
        ("empty.pth", "no state_dict"),
        ("pickled.pth", "Python objects"),
        ("bad.safetensors", "cannot be read"),
        ("w.npz", "not read"),
        ("missing.pth", "no classifier at"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_classifier(ClassifierConfig(name=str(tmp_path / name), arch="cifar_resnet8"))
    with pytest.raises(WeightsError, match="Did you mean 'resnet50'"):
        load_classifier(ClassifierConfig(name="resnet5O.tv_in1k"))
    with pytest.raises(WeightsError, match="name one of resnet50.a1_in1k"):
        load_classifier(ClassifierConfig(name="resnet50"))
    with pytest.raises(WeightsError, match="no weights 'tv_in1'"):
        load_classifier(ClassifierConfig(name="resnet50.tv_in1"))
    with pytest.raises(WeightsError, match="publishes no weights"):
        load_classifier(ClassifierConfig(name="cifar_resnet8"))
    with pytest.raises(RecipeError, match="train it first"):
        load_classifier(ClassifierConfig(name="train"))
    with pytest.raises(RecipeError, match="no architecture"):
        create_model("resnet5O", 3)


@pytest.mark.parametrize("name", ["convnext_tiny.fb_in1k", "hf-hub:timm/convnext_tiny.fb_in1k"])
def test_offline_says_what_to_download(name, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="hf download timm/convnext_tiny.fb_in1k"):
        load_classifier(ClassifierConfig(name=name))


def test_export_loads_in_timm_and_here(tmp_path):
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 3, in_channels=1).eval()
    config = ClassifierConfig(name="train", in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.25,))
    extra = {"metrics": {"top-1 %": 43.6}, "recipe_digest": "3f9c1a2b", "data": "a|b <script>", "epochs": 6}
    folder = export_classifier(
        model, tmp_path / "out", "cifar_resnet8", config, ["zero", "one", "two"], extra
    )
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(loaded(x), model(x))
    assert tuple(loaded.pretrained_cfg["mean"]) == (0.5,) and loaded.pretrained_cfg["label_names"] == [
        "zero",
        "one",
        "two",
    ]
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (1, 16, 16)
    ours = load_classifier(
        ClassifierConfig(name=str(folder), in_channels=1, mean=(0.5,), std=(0.25,)), num_classes=3
    )
    assert torch.equal(ours(x), model(x)) and ours.arch == "cifar_resnet8"
    values = json.loads((folder / "config.json").read_text())
    assert values["num_classes"] == 3 and values["diffadapt"]["epochs"] == 6
    card = (folder / "README.md").read_text()
    assert "43.6" in card and "3f9c1a2b" in card and "<script>" not in card and r"a\|b" in card
    export_classifier(ours, tmp_path / "again", "cifar_resnet8", config, ["zero", "one", "two"])
    with pytest.raises(DataError, match="2 class names"):
        export_classifier(model, tmp_path / "bad", "cifar_resnet8", config, ["a", "b"])
    with pytest.raises(WeightsError, match="takes 1 channels"):
        load_classifier(ClassifierConfig(name=str(folder)))
    other = ClassifierConfig(name=str(folder), in_channels=1, mean=(0.1,), std=(0.25,))
    assert load_classifier(other).config.mean == (0.1,) and "mean 0.1 (its own: " in differences(other)


def test_folders_of_another_format_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no config.json"):
        load_classifier(ClassifierConfig(name=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architectures": ["ResNetForImageClassification"]}')
    with pytest.raises(WeightsError, match="not a timm model"):
        load_classifier(ClassifierConfig(name=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not JSON"):
        load_classifier(ClassifierConfig(name=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architecture": "cifar_resnet8", "num_classes": 2}')
    with pytest.raises(WeightsError, match="no model.safetensors"):
        load_classifier(ClassifierConfig(name=str(tmp_path)))


def test_source_of_a_name(tmp_path):
    assert locate(ClassifierConfig(name="train")).kind == "train"
    assert classifier_revision(ClassifierConfig(name="train")) == "train"
    assert locate(ClassifierConfig(name="resnet50.tv_in1k")).kind == "timm"
    assert locate(ClassifierConfig(name=str(tmp_path))).kind == "folder"
    file = tmp_path / "w.th"
    file.write_bytes(b"1")
    first = classifier_revision(ClassifierConfig(name=str(file)))
    file.write_bytes(b"2")
    assert first != classifier_revision(ClassifierConfig(name=str(file)))


def test_card_escapes_and_shortens():
    assert escape("a*b\n| <x>") == r"a\*b \| \<x\>"
    names = [f"class_{i}" for i in range(30)]
    card = classifier_card("resnet50", ClassifierConfig(), names, {"recipe": "r", "recipe_digest": "ab`c"})
    assert "and 10 more" in card and "`abc`" in card and "No score was recorded" in card


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the shared data are not beside this checkout")
def test_genuine_cifar_weights_reach_their_accuracy():
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(SHARED / "cifar10_jpeg" / "test.parquet").to_pylist()[::20]
    images = np.stack([np.asarray(Image.open(io.BytesIO(r["image"]["bytes"]))) for r in rows])
    labels = np.array([r["label"] for r in rows])
    config = ClassifierConfig(name=str(CIFAR / "resnet20-12fca82f.th"), resize=0, crop=32)
    classifier = load_classifier(config, num_classes=10)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (classifier.config.mean, classifier.config.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        accuracy = (classifier(x).argmax(1).numpy() == labels).mean()
    assert len(labels) == 500 and 0.78 <= accuracy <= 0.84
