"""Backbones without heads, from every kind of weights; MobileNetV2 from integers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.models.backbone import load_backbone
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.importers.mobilenet import LAYERS, MODEL_ARGS, calibrate, import_mobilenet

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SMALL = BackboneConfig(
    name="train", arch="cifar_resnet8", resize=0, crop=16, in_channels=1, mean=(0.5,), std=(0.5,)
)


def test_random_weights_follow_torchs_seed():
    bodies = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        bodies.append(load_backbone(SMALL))
    x = torch.randn(2, 1, 16, 16)
    first, same, other = (b.module(x) for b in bodies)
    assert bodies[0].width == 64 and bodies[0].revision == "train" and not bodies[0].module.training
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_checkpoint_file_and_a_folder_give_the_body_of_their_classifier(tmp_path):
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 5, 1).eval()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    export_classifier(model, tmp_path / "folder", "cifar_resnet8", SMALL, list("abcde"))
    x = torch.randn(2, 1, 16, 16)
    wanted = model.forward_head(model.forward_features(x), pre_logits=True)
    for config in (
        replace(SMALL, name=str(tmp_path / "net.pt"), num_classes=9),
        replace(SMALL, name=str(tmp_path / "folder")),
    ):
        body = load_backbone(config)
        assert (
            torch.equal(body.module(x), wanted)
            and body.revision.startswith("sha256:")
            and body.arch == "cifar_resnet8"
        )


def test_refusals_say_what_to_set(tmp_path):
    with pytest.raises(RecipeError, match=r"backbone\.arch is empty"):
        load_backbone(replace(SMALL, arch=None))
    with pytest.raises(RecipeError, match="There is no architecture 'resnet5'"):
        load_backbone(replace(SMALL, arch="resnet5"))
    tokens = BackboneConfig(name=str(tmp_path), crop=32)
    export_classifier(
        create_model("vit_tiny_patch16_224", 2, crop=32), tmp_path, "vit_tiny_patch16_224", tokens, list("ab")
    )
    assert load_backbone(tokens).width == 192
    with pytest.raises(RecipeError, match="refuses images of 48 pixels"):
        load_backbone(replace(tokens, crop=48))
    with pytest.raises(WeightsError, match="no classifier at"):
        load_backbone(replace(SMALL, name="/nowhere/at-all"))


def test_arguments_of_the_network_survive_fine_tuning_and_export(tmp_path):
    """A network with padding 'same' that is loaded and written again must not come back with another
    padding."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=3, **MODEL_ARGS).eval()
    config = ClassifierConfig(name=str(tmp_path / "a"), resize=0, crop=33, mean=(0.5,) * 3, std=(0.5,) * 3)
    export_classifier(model, tmp_path / "a", "mobilenetv2_035", config, list("abc"), model_args=MODEL_ARGS)
    loaded = load_classifier(config)
    assert loaded.model_args == MODEL_ARGS
    export_classifier(loaded, tmp_path / "b", "mobilenetv2_035", config, list("abc"))
    again = load_classifier(replace(config, name=str(tmp_path / "b")))
    x = torch.randn(2, 3, 33, 33)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
        assert not torch.allclose(timm.create_model("mobilenetv2_035", num_classes=3).eval()(x), model(x))


def integers(path: Path, classes: int = 1001) -> Path:
    """An .npz as of TensorFlow Lite's integers, with random values."""
    rng = np.random.default_rng(0)
    model = timm.create_model("mobilenetv2_100", num_classes=classes)
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)] + [
        (classes, 1280, 1, 1)
    ]
    assert len(shapes) == LAYERS
    values = {}
    for i, shape in enumerate(shapes):
        fan = int(np.prod(shape[1:]))
        values |= {
            f"w{i}": rng.integers(0, 256, shape, dtype=np.uint8),
            f"s{i}": np.float32(1.2 / 74 / fan**0.5),
            f"z{i}": np.uint8(128),
        }
        values |= {f"b{i}": rng.integers(-300, 300, shape[0], dtype=np.int32), f"t{i}": np.float32(1e-3)}
    np.savez(path, **values)
    return path


def test_mobilenet_from_integers(tmp_path):
    report = import_mobilenet(str(integers(tmp_path / "net.npz")), str(tmp_path / "out"))
    assert report.classes == 1000 and report.max_relative_error < 1e-5 and report.parameters == 3_504_872
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["model_args"]["pad_type"] == "same" and values["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    body = load_backbone(BackboneConfig(name=str(tmp_path / "out"), crop=64, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert body.width == 1280 and body.model_args == MODEL_ARGS


def test_statistics_of_images_leave_the_function_and_mend_training(tmp_path):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    import_mobilenet(str(integers(tmp_path / "net.npz")), str(tmp_path / "out"))
    model = load_classifier(
        ClassifierConfig(name=str(tmp_path / "out"), mean=(0.5,) * 3, std=(0.5,) * 3)
    ).model
    x = torch.randn(8, 3, 64, 64).clamp(-1, 1)
    with torch.inference_mode():
        before = model(x)
        calibrate(model, images)
        after = model(x)
        assert (after - before).abs().max() < 1e-4 * before.abs().max()
        norm = model.blocks[3][0].bn1
        assert norm.running_mean.abs().max() > 0 and not torch.allclose(
            norm.running_var, torch.ones_like(norm.running_var)
        )


def test_the_command_says_what_it_made(tmp_path, capsys):
    from diffadapt.commands.weights import weights
    from diffadapt.data.image import encode_png

    rng = np.random.default_rng(2)
    (tmp_path / "pictures" / "any").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "pictures" / "any" / f"{i}.png").write_bytes(
            encode_png(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        )
    integers(tmp_path / "net.npz")
    assert (
        weights(
            [
                "import-mobilenet-v2",
                str(tmp_path),
                "--out",
                str(tmp_path / "out"),
                "--images",
                str(tmp_path / "pictures"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "1000 classes" in said and "statistics of 3 images" in said and "gate 1e-04" in said
    with pytest.raises(WeightsError, match="There is no file"):
        weights(["import-mobilenet-v2", str(tmp_path / "absent.npz")])
    with pytest.raises(WeightsError, match="There is no file"):  # folders are for this importer alone
        weights(["import-dit", str(tmp_path)])


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(WeightsError, match="not MobileNetV2 in integers"):
        import_mobilenet(str(tmp_path / "other.npz"), str(tmp_path / "out"))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(WeightsError, match="not MobileNetV2 in integers"):
        import_mobilenet(str(tmp_path / "text.npz"), str(tmp_path / "out"))
    with pytest.raises(WeightsError, match=r"holds 2 files \*\.npz"):
        import_mobilenet(str(tmp_path), str(tmp_path / "out"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_the_genuine_weights_know_backpacks(tmp_path):
    from diffadapt.data.config import DataConfig
    from diffadapt.data.source import open_source
    from diffadapt.models.preprocess import to_input

    report = import_mobilenet(str(SHARED / "weights" / "mobilenet_v2_imagenet_q8"), str(tmp_path))
    assert report.max_relative_error < 1e-5
    model = load_classifier(ClassifierConfig(name=str(tmp_path), resize=224, mean=(0.5,) * 3, std=(0.5,) * 3))
    source = open_source(DataConfig(str(SHARED / "office31" / "amazon.parquet")))
    keys = [i.key for i in source.items if source.class_names[i.label] == "back_pack"][:16]
    with torch.inference_mode():
        found = model(to_input([source.image(k, 3, None) for k in keys], model.config)).argmax(1).tolist()
    names = json.loads((tmp_path / "config.json").read_text())["label_names"]
    assert sum(names[i].startswith("backpack") for i in found) >= 13, [names[i] for i in found]
