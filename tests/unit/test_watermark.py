"""ImageNet-W's watermark: place, strength, variants."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data import watermark as module
from diffadapt.data.watermark import font_size, watermark, watermark_label


@pytest.fixture
def no_official_font(monkeypatch):
    monkeypatch.setattr(module, "official_font", lambda: None)


@pytest.mark.parametrize(
    ("side", "size"), [(224, 36), (384, 62), (512, 82), (518, 84), (256, 41), (16, 2), (4, 1)]
)
def test_sizes_of_the_official_package(side, size):
    assert font_size(side) == size


@pytest.mark.parametrize("shape", [(224, 224, 3), (224, 300, 1), (97, 64, 3), (32, 32, 3), (16, 16, 1)])
def test_any_shape_is_brightened_in_the_texts_band_only(no_official_font, shape):
    image = np.full(shape, 60, np.uint8)
    before = image.copy()
    out = watermark(image)
    assert out.shape == shape and out.dtype == np.uint8 and np.array_equal(image, before)
    changed = np.nonzero((out != image).any((1, 2)))[0]
    assert np.all(out >= image) and changed.size
    assert (
        changed.min() >= 0.4 * shape[0] - 1
        and changed.max() <= 0.4 * shape[0] + 1.5 * font_size(min(shape[:2])) + 1
    )
    assert np.array_equal(out, watermark(image))


def test_half_opacity_and_six_characters(no_official_font):
    out = watermark(np.zeros((224, 224, 3), np.uint8)).astype(int)
    assert out.max() in (127, 128)
    ink = out[..., 0].sum(0)
    columns = [ink[2 + 36 * k : 2 + 36 * (k + 1)] for k in range(6)]
    assert all(c.sum() > 0 for c in columns) and ink[2 + 36 * 6 + 2 :].sum() == 0
    assert np.allclose(columns[0], columns[2], atol=0.2 * columns[0].max()) and not np.allclose(
        columns[0], columns[1], atol=100
    )


def test_white_stays_white(no_official_font):
    assert np.all(watermark(np.full((64, 64, 3), 255, np.uint8)) == 255)


def test_labels(no_official_font):
    assert watermark_label() == "watermark(procedural)"
    assert watermark_label("/fonts/SourceHanSerifSC-ExtraLight.otf") == "watermark"
    assert watermark_label("/fonts/NotoSerifCJK.ttc") == "watermark(NotoSerifCJK)"


def test_wrong_requests(tmp_path, no_official_font):
    (tmp_path / "x.ttf").write_text("no font")
    with pytest.raises(DataError, match="x.ttf"):
        watermark(np.zeros((32, 32, 3), np.uint8), font=str(tmp_path / "x.ttf"))
    with pytest.raises(ItemError):
        watermark(np.zeros((32, 32), np.uint8))


def test_another_font_is_used(no_official_font, tmp_path):
    try:
        path = ImageFont.load_default(20).path.getvalue()
    except AttributeError:
        pytest.skip("Pillow was built without FreeType")
    (tmp_path / "other.ttf").write_bytes(path)
    image = np.zeros((224, 224, 3), np.uint8)
    out = watermark(image, font=str(tmp_path / "other.ttf"))
    assert out.any() and not np.array_equal(out, watermark(image))


@pytest.mark.skipif(importlib.util.find_spec("imagenet_w") is None, reason="imagenet-w is not installed")
@pytest.mark.parametrize("side", [224, 256, 384])
def test_pixels_of_the_official_package(side):
    from imagenet_w import AddWatermark

    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert np.array_equal(watermark(image), np.asarray(AddWatermark(side)(Image.fromarray(image))))
    assert watermark_label() == "watermark" and Path(module.official_font()).is_file()
