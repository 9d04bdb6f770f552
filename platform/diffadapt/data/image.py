"""Image bytes to uint8 arrays and back.

Decoding follows what ``torchvision.datasets.ImageFolder`` feeds a network: the first frame, converted to RGB
(or grey), alpha dropped, EXIF orientation NOT applied. It differs in one point: images of 16 bits a sample
are scaled to 8 bits, where Pillow's plain conversion would clip everything above 255 to white.

Pillow goes by the bytes, not by the name, and some of its formats start other programs (EPS: Ghostscript):
:func:`open_image` is the one place of the package that shows it bytes, and these formats are all it tries.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from diffadapt.core.errors import DataError, ItemError, ResourceError

FORMATS = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"), "WEBP": (".webp",),
    "BMP": (".bmp",), "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm"),
}  # fmt: skip
if importlib.util.find_spec("PIL._avif"):  # not every build of Pillow has it
    FORMATS["AVIF"] = (".avif",)
"""Formats that are read, as Pillow names them, with their files' suffixes, the usual one first."""
MAX_PIXELS = 1 << 26
"""Images with more pixels than this (8192 x 8192) are refused before they are decompressed."""
MAX_PIXELS_VARIABLE = "DIFFADAPT_MAX_PIXELS"
"""The environment variable with another number of pixels."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit speaks


def max_pixels() -> int:
    """How many pixels an image may have. Raises DataError where the environment names no such number."""
    given = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not given:
        return MAX_PIXELS
    if not given.isascii() or not given.isdigit() or int(given) == 0:
        raise DataError(
            f"{MAX_PIXELS_VARIABLE} is {given!r}, but it must be a number of pixels such as {MAX_PIXELS}:"
            " correct or unset it."
        )
    return int(given)


@contextmanager
def open_image(data: bytes, what: str) -> Iterator[Image.Image]:
    """The image in ``data``, its header read and its pixels not yet.

    ItemError, a sentence that begins with ``what``, is raised for bytes that are empty, of none of
    :data:`FORMATS`, or claim more than :func:`max_pixels`; and, in place of what Pillow raises within the
    block, for damaged or truncated ones. ResourceError where this machine's memory is used up.
    """
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # else Pillow refuses what the user lets in
    if not data:
        raise ItemError(f"{what} is empty: replace or remove the file.")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            width, height = image.size
            if width * height > limit:
                raise _too_large(what, f"{width} x {height}", width * height, limit)
            yield image
    except ItemError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = max([limit, *map(int, re.findall(r"\d+", str(error)))])
        raise _too_large(what, f"{count:,}", count, limit) from None
    except MemoryError:
        raise ResourceError(
            f"{what} does not fit in the memory that is left: free memory or scale the image down, then run"
            " the same command."
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged bytes
        raise ItemError(
            f"{what} is not a readable image ({_reason(error)}): replace or remove the file."
        ) from None


def decode(data: bytes, channels: int, key: str) -> np.ndarray:
    """The image as uint8 (H, W, channels), ``channels`` 1 (grey, ITU-R 601 luma) or 3 (RGB).

    Palettes are looked up, CMYK is converted (Adobe's inverted JPEGs included), 16-bit samples become
    round(v / 257), alpha is dropped. Raises ItemError, naming ``key``, as :func:`open_image` does.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 or 3")
    with open_image(data, key) as image:
        image.load()
        return _to_array(image, channels, key)


def image_suffix(data: bytes, key: str) -> tuple[str, ...]:
    """The file suffixes that fit the bytes' real format, the usual one first. Raises ItemError for other
    bytes."""
    with open_image(data, key) as image:
        # Pillow calls a JPEG with a preview or a second picture behind the first one an MPO.
        return FORMATS["JPEG" if image.format == "MPO" else image.format or ""]


def encode_png(array: np.ndarray, compress_level: int = 1) -> bytes:
    """Lossless PNG bytes of a uint8 (H, W), (H, W, 1) or (H, W, 3) array; the same array gives the same
    bytes."""
    out = io.BytesIO()
    to_pil(array).save(out, "PNG", compress_level=compress_level)
    return out.getvalue()


def encode_jpeg(array: np.ndarray, quality: int = 75, subsampling: str = "4:2:0") -> bytes:
    """JPEG bytes of a uint8 (H, W), (H, W, 1) or (H, W, 3) array (the SDA authors store projections at 75,
    4:2:0)."""
    out = io.BytesIO()
    image = to_pil(array)
    extra = {} if image.mode == "L" else {"subsampling": subsampling}
    image.save(out, "JPEG", quality=quality, **extra)
    return out.getvalue()


def to_pil(array: np.ndarray) -> Image.Image:
    """A Pillow image (mode L or RGB) of a uint8 (H, W), (H, W, 1) or (H, W, 3) array; ValueError
    otherwise."""
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3))
    ):
        raise ValueError(
            f"expected a uint8 (H, W), (H, W, 1) or (H, W, 3) array, got {array.dtype} {array.shape}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _to_array(image: Image.Image, channels: int, key: str) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT:
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ItemError(
                f"{key} has samples of more than 16 bits, whose range is unknown: convert it to 8 bits."
            )
        # Mode I is what older Pillow makes of 16-bit PNG; in other formats it may carry widened 8-bit data.
        wide = image.mode != "I" or image.format == "PNG" or samples.max() > 255
        grey = np.empty(samples.shape, np.uint8)
        for rows in blocks(*samples.shape):
            part = samples[rows]
            grey[rows] = (part.astype(np.uint32) + 128) // 257 if wide else part
        return np.repeat(grey[:, :, None], channels, axis=2)
    if image.mode == "F":
        raise ItemError(f"{key} has floating-point samples, whose range is unknown: convert it to 8 bits.")
    mode, (width, height) = "RGB" if channels == 3 else "L", image.size
    array = np.empty((height, width, channels), np.uint8)
    for rows in blocks(height, width):
        whole = rows.stop - rows.start == height
        part = image if whole else image.crop((0, rows.start, width, rows.stop))
        converted = part if part.mode == mode else part.convert(mode)
        array[rows] = np.asarray(converted).reshape(-1, width, channels)
    return array


def blocks(height: int, width: int) -> Iterator[slice]:
    """The rows of an image in parts of about a million pixels: what is worked out on the way takes many times
    the memory of what comes of it."""
    step = max(1, (1 << 20) // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _too_large(what: str, claimed: str, count: int, limit: int) -> ItemError:
    return ItemError(
        f"{what} claims {claimed} pixels, more than the {limit:,} that are accepted, since a small file can"
        f" fill the memory (a decompression bomb): scale it down, or set {MAX_PIXELS_VARIABLE} to {count} or"
        " more."
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".").splitlines()[0] if str(error).strip() else type(error).__name__
    if text.startswith("cannot identify image file"):
        return f"no image format is recognised, and read are {', '.join(FORMATS)}"
    return text
