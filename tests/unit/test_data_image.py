"""Decoding and encoding of image bytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffadapt.core.errors import ItemError
from diffadapt.data import image as module
from diffadapt.data.image import decode, encode_jpeg, encode_png, image_suffix

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (9, 13, 1), dtype=np.uint8)


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


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(COLOUR), "JPEG", exif=exif)
    assert decode(data, 3, "k").shape == (9, 13, 3)


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


def test_decompression_bombs_are_refused_before_they_are_decoded(monkeypatch):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(ItemError, match="bomb"):
        decode(bomb, 3, "bomb.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    with pytest.raises(ItemError, match="13 x 9"):
        decode(encode_png(COLOUR), 3, "large.png")


def test_suffix_follows_the_bytes():
    assert image_suffix(encode_jpeg(COLOUR), "k")[0] == ".jpg"
    assert image_suffix(encode_png(COLOUR), "k") == (".png",)
    with pytest.raises(ItemError):
        image_suffix(b"nothing", "k")
