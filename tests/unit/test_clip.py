"""CLIP features and zero-shot rows, on a random CLIPModel saved as a folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tinypipelines as tiny
import torch

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.stage import WorkContext
from diffadapt.data.image import encode_png
from diffadapt.models.clip import load_clip
from diffadapt.models.config import ClipConfig
from diffadapt.tasks.classification.zero_shot import ZeroShot


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip"), sharp=True)


def pictures(count: int, channels: int = 3) -> list[np.ndarray]:
    return [
        np.random.default_rng(i).integers(0, 256, (20, 24, channels), dtype=np.uint8) for i in range(count)
    ]


def test_features_are_those_of_transformers(weights):
    """Against CLIPModel's own forward pass, whose logits are scale x cosine."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    clip, images, texts = load_clip(weights), pictures(3), ["a photo of a dog", "a red car"]
    model = CLIPModel.from_pretrained(weights).eval()
    pixels = AutoImageProcessor.from_pretrained(weights)(
        images=[Image.fromarray(i) for i in images], return_tensors="pt"
    )["pixel_values"]
    tokens = AutoTokenizer.from_pretrained(weights)(texts, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
    ours = clip.logits(images, clip.class_features([[t] for t in texts]))
    assert torch.allclose(ours, out.logits_per_image, atol=2e-4) and float(ours.std()) > 0.01
    assert torch.allclose(
        clip.probabilities(images, [[t] for t in texts]), out.logits_per_image.softmax(1), atol=1e-4
    )
    features = clip.image_features(images)
    assert features.dtype == torch.float32 and torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)


def test_grey_images_long_texts_and_batches(weights):
    clip = load_clip(weights, precision="fp16")  # fp32 on a CPU
    grey = pictures(2, channels=1)
    assert torch.allclose(
        clip.image_features(grey), clip.image_features([np.repeat(g, 3, axis=2) for g in grey])
    )
    assert torch.allclose(clip.image_features(grey)[:1], clip.image_features(grey[:1]), atol=1e-6)
    assert clip.text_features(["a photo of the cat " * 30]).shape == (1, 16)


def test_class_features_are_the_mean_of_the_templates(weights):
    clip = load_clip(weights)
    a, b = clip.text_features(["a photo of a dog", "a painting of a dog"])
    (mean,) = clip.class_features([["a photo of a dog", "a painting of a dog"]])
    assert torch.allclose(mean, (a + b) / (a + b).norm(), atol=1e-6)


def test_missing_or_other_weights(weights, tmp_path):
    with pytest.raises(WeightsError, match="hf download nobody/clip"):
        load_clip("nobody/clip")
    sd = tiny.stable_diffusion(tmp_path / "sd")
    with pytest.raises(WeightsError, match="not a CLIP"):
        load_clip(f"{sd}/text_encoder")
    incomplete = shutil.copytree(weights, tmp_path / "incomplete")
    (incomplete / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="image processor"):
        load_clip(str(incomplete))


def images_table(arrays: list[np.ndarray | bytes]) -> Rows:
    keys = [f"target/0/{i}.png" for i in range(len(arrays))]
    data = [a if isinstance(a, bytes) else encode_png(a) for a in arrays]
    return Rows(
        image_table(keys, [0, None, 1][: len(arrays)], data, [0] * len(arrays)),
        [Failure("target/0/x.png", "earlier")],
    )


def test_zero_shot_rows(weights):
    stage = ZeroShot(
        ClipConfig(weights, ("a photo of a {category}", "a {domain} of the {category}"), batch_size=2),
        ("dog", "red_car"),
        "painting",
    )
    assert stage.texts() == [
        ["a photo of a dog", "a painting of the dog"],
        ["a photo of a red car", "a painting of the red car"],
    ]
    images = pictures(3)
    rows = stage.open(WorkContext("cpu")).run(
        Shard("a", {}), [images_table([images[0], b"no image", images[2]])]
    )
    assert rows.column("key") == ["target/0/0.png", "target/0/2.png"] and rows.column("label") == [0, 1]
    assert {f.key for f in rows.failures} == {"target/0/x.png", "target/0/1.png"}
    clip = load_clip(weights)
    wanted = clip.logits([images[0], images[2]], clip.class_features(stage.texts()))
    assert np.allclose(np.array(rows.column("logits")), wanted.numpy(), atol=1e-4)


def test_zero_shot_identity_and_settings(weights):
    base = ZeroShot(ClipConfig(weights), ("dog", "cat"))
    assert base.identity() == ZeroShot(ClipConfig("another/place", batch_size=3), ("dog", "cat")).identity()
    assert base.identity() != ZeroShot(ClipConfig(weights), ("dog", "car")).identity()
    assert base.revisions()["clip"].startswith("sha256:")
    with pytest.raises(RecipeError, match="category"):
        ZeroShot(ClipConfig(weights, ("a photo",)), ("dog", "cat")).plan({})
    standard = ZeroShot(ClipConfig(weights), ("dog", "ice_cream")).texts()
    assert [len(texts) for texts in standard] == [80, 80] and len(set(standard[1])) == 80
    assert "itap of a ice cream." in standard[1] and "a photo of the small ice cream." in standard[1]
