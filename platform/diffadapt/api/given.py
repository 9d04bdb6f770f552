"""One image as a caller may hold it, as encoded bytes: so that all are decoded by the one function."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, SupportsBytes

from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.location import open_place
from diffadapt.core.redact import redact

ANYTHING = "a path, encoded bytes, a Picture, a PIL image or a uint8 array (height, width, 1 or 3)"


def encoded(image: Any, name: str = "the image") -> bytes:
    """The bytes of a file (path or URL), of a :class:`~diffadapt.api.images.Picture`, or of encoded bytes as
    they are; a PIL image, with the orientation that it states, or an array uint8 (H, W), (H, W, 1) or (H, W,
    3) as PNG. DataError for anything else, and for a file that cannot be read."""
    if isinstance(image, (str, os.PathLike)):
        return _read(os.fspath(image))
    if isinstance(image, (bytes, SupportsBytes)):
        return bytes(image)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _of_pillow(image, name)
    if hasattr(image, "__array__"):
        import numpy as np

        from diffadapt.data.image import encode_png

        try:
            return encode_png(np.asarray(image))
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"{name} cannot be taken ({error}): give {ANYTHING}.") from None
    raise DataError(f"A value of the type {type(image).__name__} is no image: give {ANYTHING}.")


def _read(place: str) -> bytes:
    try:
        with open_place(place, "rb", DataError) as stream:
            return stream.read()
    except FileNotFoundError:
        raise DataError(f"The image {redact(place)} does not exist: check the path.") from None
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"The image {redact(place)} cannot be read ({redact(str(error))}): mend the path."
        ) from None


def _of_pillow(image: Any, name: str) -> bytes:
    if image.mode == "F":
        raise ItemError(f"{name} has floating-point samples, whose range is unknown: convert it to 8 bits.")
    turn = image.getexif()
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, exif=turn)
    return buffer.getvalue()
