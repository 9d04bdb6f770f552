"""Images out of the body of a request: bytes of one, a form (multipart/form-data), or JSON with base64."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from diffadapt.core.errors import DiffadaptError

Upload = tuple[str, bytes]
"""An image's name, which is its path where a folder is predicted, and its bytes."""
LONGEST_NAME = 1024
NAMELESS = ("", "blob", "-")
"""What clients call an image that has no name."""


class Refused(DiffadaptError):
    """A request that is not answered, with the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def images_of(content_type: str, body: bytes, name: str = "") -> list[Upload]:
    """The images of a request, named by the request or by the digest of their bytes; ``name``: of the one
    image that ``body`` is. Raises Refused (400, 415)."""
    header = Message()
    header["content-type"] = content_type or "application/octet-stream"
    kind = header.get_content_type()
    if kind == "multipart/form-data":
        found = _of_form(header.get_boundary(), body)
    elif kind == "application/json":
        found = _of_json(body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = [(name, body)]
    else:
        raise Refused(
            f"The content type {kind} is not read: send an image (image/..., application/octet-stream), a"
            " form (multipart/form-data) or JSON (application/json).",
            415,
        )
    if not found:
        raise Refused("The request holds no image: send at least one.")
    return [(_named(given, data), data) for given, data in found]


def _named(name: Any, data: bytes) -> str:
    if name is None or name in NAMELESS:
        return hashlib.sha256(data).hexdigest()[:32]
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise Refused(f"An image's name must be a text of at most {LONGEST_NAME} printable characters.")
    return name


def _of_form(boundary: str | None, body: bytes) -> list[Upload]:
    """Every part with a file, or without a name of a file the parts that are called image (RFC 7578)."""
    if not boundary:
        raise Refused(
            "The form names no boundary: let the client set the content type of multipart/form-data."
        )
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if not parts or not parts[-1].startswith(b"--"):
        raise Refused("The form is broken off: its last boundary is missing.")
    found = []
    for part in parts[:-1]:
        head, gap, data = part.partition(b"\r\n\r\n")
        if not gap:
            raise Refused("The form has a part without a header.")
        fields = BytesHeaderParser().parsebytes(head.lstrip(b" \t\r\n"))
        file = fields.get_filename()
        if file is not None or fields.get_param("name", header="content-disposition") in ("image", "data"):
            found.append((file or "", data))
    return found


def _of_json(body: bytes) -> list[Upload]:
    """``[item, ...]``, or the same as ``instances`` (KServe, TensorFlow Serving) or ``images``; an item is
    base64, or ``{"name": ..., "b64": base64}``, or that within ``image_bytes``."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("The body is no JSON.") from None
    if isinstance(value, dict):
        value = next((value[k] for k in ("instances", "images") if k in value), None)
    if not isinstance(value, list):
        raise Refused('The JSON must be a list of images, or {"instances": [...]} with one.')
    return [_item(item, place) for place, item in enumerate(value)]


def _item(item: Any, place: int) -> Upload:
    name: Any = None
    while isinstance(item, dict):
        name = item.get("name", name)
        item = item.get("b64", item.get("image_bytes"))
    text = item.partition(",")[2] if isinstance(item, str) and item.startswith("data:") else item
    try:
        if not isinstance(text, str):
            raise ValueError
        return name, base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error):
        raise Refused(
            f'Image {place} of the JSON is not base64: give a text, or {{"name": ..., "b64": ...}}.'
        ) from None


def pieces(images: Sequence[Upload], size: int) -> list[Sequence[Upload]]:
    """``images`` in parts of at most ``size``."""
    return [images[i : i + size] for i in range(0, len(images), size)]
