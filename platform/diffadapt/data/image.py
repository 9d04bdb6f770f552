"""Image bytes to uint8 arrays and back.

Decoding follows what ``torchvision.datasets.ImageFolder`` feeds a network: the first frame, converted to RGB
(or grey), alpha dropped. It differs in two points: what a file says of its orientation is applied (EXIF, as
``PIL.ImageOps.exif_transpose`` and every viewer and labelling tool do), and images of 16 bits a sample are
scaled to 8 bits, where Pillow's plain conversion would clip everything above 255 to white.

Pillow goes by the bytes, not by the name, and some of its formats start other programs (EPS: Ghostscript):
:func:`open_image` is the one place of the package that shows it bytes, and these formats are all it tries.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

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

DEPTHS = (8, 10, 12, 14, 16)
"""Bits a sample that cameras and microscopes have, whatever the file could hold."""
_TURNS = range(2, 9)
_MARKS = (b"xif", b"XIf", b"XIF", b"rientation")
"""One of these stands in every JPEG, PNG or WebP that states a turn: EXIF in its spellings, and XMP."""
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class TooManyPixels(ItemError):
    """An image that claims more pixels than are accepted."""


class UnknownFormat(ItemError):
    """Bytes of none of :data:`FORMATS`."""


warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit speaks
warnings.filterwarnings("ignore", message="Palette images with Transparency")  # alpha is dropped


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
        kind = UnknownFormat if isinstance(error, UnidentifiedImageError) else ItemError
        raise kind(
            f"{what} is not a readable image ({_reason(error)}): replace or remove the file."
        ) from None


def decode(data: bytes, channels: int, key: str, bits: int = 0) -> np.ndarray:
    """The image, upright, as uint8 (H, W, channels), ``channels`` 1 (grey, ITU-R 601 luma) or 3 (RGB).

    Palettes are looked up, CMYK is converted (Adobe's inverted JPEGs included), alpha is dropped. 16-bit
    samples of one channel become round(255 v / (2^b - 1)): b is ``bits`` (of the set, see data/looks.py), or
    0: what the file declares (PNG's sBIT, TIFF's BitsPerSample and MaxSampleValue) where its samples keep to
    it, else 16. Raises ItemError, naming ``key``, as :func:`open_image` does.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 or 3")
    with open_image(data, key) as image:
        turn, declared = orientation(image, data), _declared(image, data)
        image.load()
        return upright(_to_array(image, channels, key, bits, declared), turn)


def image_size(data: bytes, key: str) -> tuple[int, int]:
    """(height, width) of the upright image, from the header where that tells. Raises ItemError."""
    with open_image(data, key) as image:
        width, height = image.size
        return (width, height) if orientation(image, data) >= 5 else (height, width)


def stored_size(data: bytes, key: str) -> tuple[int, int]:
    """(height, width) of the pixels as they are stored, before a turn. Raises ItemError."""
    with open_image(data, key) as image:
        return image.size[1], image.size[0]


def as_stored(data: bytes, key: str) -> bytes:
    """The pixels as they are stored, without the turn that the file states, as PNG. Raises ItemError."""
    with open_image(data, key) as image:
        declared = _declared(image, data)
        image.load()
        return encode_png(_to_array(image, 3, key, 0, declared))


def orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation 1..8 that is still to be applied to ``image``, which was opened from ``data``; 1:
    none."""
    if image.format == "TIFF":  # Pillow turns these itself, and gives the size after it
        return 1
    if image.format != "AVIF" and not any(mark in data for mark in _MARKS):
        return 1
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF takes nothing from an image
        return 1
    return found if found in _TURNS else 1


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """(H, W, ...) with the EXIF orientation ``turn`` applied."""
    if turn == 1:
        return array
    if turn >= 5:
        array = array.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def is_marked(data: bytes) -> bool:
    """Whether an encoded image may have a turn, more than 8 bits a sample or further pictures; a glance at
    its bytes."""
    if data[:4] == b"GIF8" or b"acTL" in data[:4096] or data[12:16] == b"VP8X":
        return True
    deep = data[:2] in (b"II", b"MM", b"P2", b"P5") or (data[1:4] == b"PNG" and data[24:25] == b"\x10")
    return deep or data[4:8] == b"ftyp" or any(mark in data for mark in _MARKS)


def depth_of(image: Image.Image, data: bytes) -> tuple[str, int]:
    """('grey' or 'colour' for an image of 16 bits a sample, else '', the bits that its samples declare or
    need). What has its own number of bits (TIFF of 12) needs no rule and counts as ''."""
    if image.mode in _SIXTEEN_BIT:
        declared = _declared(image, data)
        if image.format == "TIFF" and 8 < declared < 16:
            return "", 0
        highest = int(np.asarray(image).max())
        # Mode I of other formats may carry widened 8-bit data, which is what it is.
        plain = image.mode == "I" and image.format != "PNG" and highest <= 255
        return ("", 0) if plain or highest > 65535 else ("grey", max(declared, highest.bit_length()))
    tile = getattr(image, "tile", None)
    if image.mode in ("RGB", "RGBA") and tile and "16" in str(tile[0][3]):
        return "colour", 8 + int(np.asarray(image.convert("RGB")).max()).bit_length()
    return "", 0


def eight_bits(data: bytes, key: str, bits: Callable[[], int]) -> bytes:
    """An encoded image; one of 16-bit samples as an 8-bit PNG scaled as :func:`decode` does with ``bits()``
    other than 0, others as they are. Raises ItemError."""
    if not is_marked(data):
        return data
    with open_image(data, key) as image:
        deep = image.mode in _SIXTEEN_BIT
    depth = bits() if deep else 0  # asked for late: to know it, a whole set is looked at
    return encode_png(decode(data, 1, key, depth)) if depth else data


def _declared(image: Image.Image, data: bytes) -> int:
    """The bits a sample that a 16-bit image says it has; 0: it says nothing."""
    if image.mode not in _SIXTEEN_BIT:
        return 0
    if image.format == "PNG":
        place = 8
        while place + 8 <= len(data) and data[place + 4 : place + 8] not in (b"IDAT", b"IEND"):
            if data[place + 4 : place + 8] == b"sBIT":
                return data[place + 8] if 0 < data[place + 8] < 16 else 0
            place += 12 + int.from_bytes(data[place : place + 4], "big")
        return 0
    tags = getattr(image, "tag_v2", {})
    size, highest = (_first(tags.get(tag)) for tag in (258, 281))
    return size if 8 < size < 16 else highest.bit_length() if 0 < highest < 65535 else 0


def _first(value: object) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


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


def _to_array(image: Image.Image, channels: int, key: str, bits: int, declared: int) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT:
        samples = np.asarray(image)
        highest = int(samples.max())
        if samples.min() < 0 or highest > 65535:
            raise ItemError(
                f"{key} has samples of more than 16 bits, whose range is unknown: convert it to 8 bits."
            )
        # Mode I is what older Pillow makes of 16-bit PNG; in other formats it may carry widened 8-bit data.
        wide = image.mode != "I" or image.format == "PNG" or highest > 255
        if image.format == "TIFF" and 8 < declared < 16:  # the file has no more bits than these
            bits = declared
        if highest >= 1 << (bits := bits or declared or 16):  # declared, but scaled up to the whole range
            bits = 16
        full = (1 << bits) - 1
        grey = np.empty(samples.shape, np.uint8)
        for rows in blocks(*samples.shape):
            part = samples[rows]
            grey[rows] = (part.astype(np.uint32) * 510 + full) // (2 * full) if wide else part
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


def _too_large(what: str, claimed: str, count: int, limit: int) -> TooManyPixels:
    return TooManyPixels(
        f"{what} claims {claimed} pixels, more than the {limit:,} that are accepted, since a small file can"
        f" fill the memory (a decompression bomb): scale it down, or set {MAX_PIXELS_VARIABLE} to {count} or"
        " more."
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".").splitlines()[0] if str(error).strip() else type(error).__name__
    if text.startswith("cannot identify image file"):
        return f"no image format is recognised, and read are {', '.join(FORMATS)}"
    return text
