"""Decoding and encoding of image bytes."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data import image as module
from diffadapt.data.image import decode, encode_jpeg, encode_png, image_size, image_suffix
from diffadapt.data.readers import SUFFIXES
from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.label_maps import label_values, read_label_map
from diffadapt.data.scenes.rows import decode_colours

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (9, 13, 1), dtype=np.uint8)
TABLE = TABLES["cityscapes"]


def saved(picture: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def smooth() -> Image.Image:
    ramp = np.linspace(0, 255, 64)
    return Image.fromarray(
        np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90)], -1).astype(
            np.uint8
        )
    )


@pytest.mark.parametrize("array", [COLOUR, GREY, GREY[:, :, 0]])
def test_png_is_lossless_and_the_same_bytes_every_time(array):
    data = encode_png(array)
    assert data == encode_png(array.copy())
    channels = 3 if array.ndim == 3 and array.shape[2] == 3 else 1
    assert np.array_equal(decode(data, channels, "k"), array.reshape(9, 13, channels))


def test_jpeg_is_pillows_at_that_quality_and_subsampling():
    picture = smooth()
    expected = saved(picture, "JPEG", quality=75, subsampling="4:2:0")
    assert encode_jpeg(np.asarray(picture)) == expected
    assert encode_jpeg(np.asarray(picture), subsampling="4:4:4") != expected


def test_palette_is_looked_up_and_alpha_dropped():
    picture = Image.fromarray(COLOUR)
    palette = picture.quantize(16)
    assert np.array_equal(decode(saved(palette, "PNG"), 3, "k"), np.asarray(palette.convert("RGB")))
    rgba = np.concatenate([COLOUR, np.full((9, 13, 1), 7, np.uint8)], 2)
    assert np.array_equal(decode(saved(Image.fromarray(rgba), "PNG"), 3, "k"), COLOUR)


def test_cmyk_jpeg_has_the_colours_of_the_rgb_original():
    picture = smooth()
    got = decode(saved(picture.convert("CMYK"), "JPEG", quality=95), 3, "k").astype(int)
    assert np.abs(got - np.asarray(picture)).mean() < 3


def test_sixteen_bits_are_scaled_not_clipped():
    wide = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    got = decode(saved(Image.fromarray(wide), "PNG"), 1, "k")
    assert np.array_equal(got[:, :, 0], np.arange(256).reshape(16, 16))
    dark = np.full((4, 4), 200, np.uint16)
    assert decode(saved(Image.fromarray(dark), "PNG"), 3, "k").tolist() == np.ones((4, 4, 3)).tolist()


def test_grey_is_luma():
    assert np.array_equal(
        decode(encode_png(COLOUR), 1, "k")[:, :, 0], np.asarray(Image.fromarray(COLOUR).convert("L"))
    )


@pytest.mark.parametrize("cut", [1, 20, 60, 0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_truncated_bytes_name_the_key(form, cut):
    data = saved(Image.fromarray(np.asarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))), form)
    with pytest.raises(ItemError, match="a/b.png"):
        decode(data[: cut if cut >= 1 else int(len(data) * cut)], 3, "a/b.png")


@pytest.mark.parametrize("data", [b"", b"hello, this is no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_other_bytes_name_the_key_in_one_sentence(data):
    with pytest.raises(ItemError, match="dir/x.jpg") as caught:
        decode(data, 3, "dir/x.jpg")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def blank_png(width: int, height: int) -> bytes:
    """A grey PNG that claims a size, with few bytes behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8192, 8193), (9400, 9400), (11_000, 11_000), (60_000, 60_000)])
@pytest.mark.parametrize(
    "read",
    [
        lambda data: decode(data, 3, "large"),
        lambda data: decode_colours(data, "large"),
        lambda data: read_label_map(data, TABLE, "large"),
        lambda data: label_values(data, "large"),
        lambda data: image_size(data, "large"),
        lambda data: image_suffix(data, "large"),
    ],
)
def test_decompression_bombs_are_refused_before_they_are_decoded(size, read, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ItemError, match=f"more than the 67,108,864.*{size[0] * size[1]} or more") as caught:
        read(blank_png(*size))
    assert "large claims" in str(caught.value) and "DIFFADAPT_MAX_PIXELS" in str(caught.value)


@pytest.mark.parametrize("words", [[], ["-W", "error"]])
def test_a_refusal_is_all_that_is_said(words, tmp_path):
    """Pillow's own warning would be a second sentence."""
    (tmp_path / "large.png").write_bytes(blank_png(11_000, 11_000))
    code = f"""
from diffadapt.data.image import decode
from pathlib import Path
try:
    decode(Path({str(tmp_path / "large.png")!r}).read_bytes(), 3, "large")
except Exception as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    done = subprocess.run([sys.executable, *words, "-c", code], capture_output=True, text=True, env=env)
    assert done.stderr == "" and "121000000 or more" in done.stdout


def test_the_environment_sets_how_many_pixels_are_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    exact = saved(Image.new("1", (8192, 8192)), "PNG")
    assert decode(exact, 1, "k").shape == (8192, 8192, 1)
    monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", "116")
    with pytest.raises(ItemError, match="13 x 9 pixels, more than the 116"):
        decode(encode_png(COLOUR), 3, "large.png")
    monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", "117")
    assert np.array_equal(decode(encode_png(COLOUR), 3, "k"), COLOUR)
    monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", "400000000")
    assert image_size(blank_png(20_000, 20_000), "k") == (20_000, 20_000), "past Pillow's own limit"
    for wrong in ("many", "-5", "0", "1e8"):
        monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", wrong)
        with pytest.raises(DataError, match=f"DIFFADAPT_MAX_PIXELS is '{wrong}'"):
            decode(encode_png(COLOUR), 3, "k")


def test_no_program_is_started_for_what_only_calls_itself_a_jpeg(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript; a stand-in for it leaves a mark."""
    from PIL import EpsImagePlugin

    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for read in (decode, lambda data, _, key: image_suffix(data, key)):
        with pytest.raises(ItemError, match="a/b.jpg.*no image format"):
            read(eps, 3, "a/b.jpg")
    for read in (decode_colours, image_size, label_values):
        with pytest.raises(ItemError, match="no image format"):
            read(eps, "a/b.jpg")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("form", ["TGA", "PCX", "ICO", "JPEG2000", "SGI", "PDF"])
def test_formats_that_no_suffix_promises_are_not_tried(form):
    picture = Image.fromarray(COLOUR)
    with pytest.raises(ItemError, match="read are PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM"):
        decode(saved(picture, form), 3, "k")


@pytest.mark.parametrize("form", list(module.FORMATS))
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_every_format_is_decoded_as_pillow_alone_decodes_it(form, mode):
    if form == "WEBP" and mode == "P":
        pytest.skip("WebP has no palettes")
    picture = smooth().convert(mode)
    data = saved(picture.convert("RGB") if (form, mode) in (("JPEG", "P"), ("PPM", "P")) else picture, form)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(decode(data, 3, "k"), np.asarray(opened.convert("RGB")))
    assert image_suffix(data, "k") == module.FORMATS[form]


def test_readers_and_formats_promise_the_same():
    assert set(SUFFIXES) <= {suffix for found in module.FORMATS.values() for suffix in found}


def test_a_jpeg_with_a_preview_is_a_jpeg():
    """Pillow calls it an MPO; telephones write such files."""
    data = saved(smooth(), "MPO", save_all=True, append_images=[smooth().resize((8, 8))])
    assert decode(data, 3, "k").shape == (64, 64, 3) and image_suffix(data, "k")[0] == ".jpg"
    with pytest.raises(ItemError, match="is a JPEG"):
        read_label_map(data, TABLE, "k")


def test_suffix_follows_the_bytes():
    assert image_suffix(encode_jpeg(COLOUR), "k")[0] == ".jpg"
    assert image_suffix(encode_png(COLOUR), "k") == (".png",)
    with pytest.raises(ItemError):
        image_suffix(b"nothing", "k")
