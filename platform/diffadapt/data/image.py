"""Image bytes to uint8 arrays and back.

Decoding follows what ``torchvision.datasets.ImageFolder`` feeds a network: the first frame, converted to RGB
(or grey), alpha dropped, EXIF orientation NOT applied. It differs in one point: images of 16 bits a sample
are scaled to 8 bits, where Pillow's plain conversion would clip everything above 255 to white.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from diffadapt.core.errors import ItemError

MAX_PIXELS = 89_478_485
"""Images with more pixels than this are refused before they are decompressed (the size from which Pillow
warns of a bomb)."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_SUFFIXES = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",), "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm"),
}  # fmt: skip


def decode(data: bytes, channels: int, key: str) -> np.ndarray:
    """The image as uint8 (H, W, channels), ``channels`` 1 (grey, ITU-R 601 luma) or 3 (RGB).

    Palettes are looked up, CMYK is converted (Adobe's inverted JPEGs included), 16-bit samples become
    round(v / 257), alpha is dropped. Raises ItemError, naming ``key``, for bytes that are no image, are
    truncated, or claim more than MAX_PIXELS pixels.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 or 3")
    if not data:
        raise ItemError(f"{key} is empty: replace or remove the file.")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ItemError(
                    f"{key} claims {width} x {height} pixels, more than the {MAX_PIXELS:,} that are accepted:"
                    " scale it down first."
                )
            image.load()
            return _to_array(image, channels, key)
    except ItemError:
        raise
    except Image.DecompressionBombError as error:
        raise ItemError(f"{key} is refused as a decompression bomb: {_reason(error)}.") from None
    except MemoryError:
        raise ItemError(f"{key} does not fit in memory when decoded: scale it down first.") from None
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged bytes
        raise ItemError(
            f"{key} is not a readable image ({_reason(error)}): replace or remove the file."
        ) from None


def image_suffix(data: bytes, key: str) -> tuple[str, ...]:
    """The file suffixes that fit the bytes' real format, the usual one first. Raises ItemError for other
    bytes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _SUFFIXES[image.format or ""]
    except Exception:
        raise ItemError(f"{key} is not an image in a known format.") from None


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
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise ItemError(
                f"{key} has samples of more than 16 bits, whose range is unknown: convert it to 8 bits."
            )
        # Mode I is what older Pillow makes of 16-bit PNG; in other formats it may carry widened 8-bit data.
        wide = image.mode != "I" or image.format == "PNG" or samples.max() > 255
        grey = ((samples + 128) // 257 if wide else samples).astype(np.uint8)
        return np.repeat(grey[:, :, None], channels, axis=2)
    if image.mode == "F":
        raise ItemError(f"{key} has floating-point samples, whose range is unknown: convert it to 8 bits.")
    converted = image.convert("RGB" if channels == 3 else "L")
    array = np.array(converted, dtype=np.uint8)
    return array if channels == 3 else array[:, :, None]


def _reason(error: BaseException) -> str:
    text = str(error).strip().rstrip(".").splitlines()[0] if str(error).strip() else type(error).__name__
    return "no image format is recognised" if text.startswith("cannot identify image file") else text
