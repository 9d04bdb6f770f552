"""The page on which a person labels the images of an audit: one HTML file that asks nothing of a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffadapt.audit.design import Design
from diffadapt.audit.sheet import HEADER, UNKNOWN
from diffadapt.core.redact import redact
from diffadapt.core.spreadsheet import csv_bytes
from diffadapt.data.image import decode, encode_jpeg, encode_png, to_pil
from diffadapt.report.page import load_page, style_sheet

LONGEST = 1024
"""Pixels of an image's longer side on the page; larger ones are made smaller."""
SMALL = 256
"""Images of which no side is longer are stored without loss."""


def picture(data: bytes, key: str) -> tuple[str, bytes]:
    """(file ending, bytes) of an image as a browser shows it, decoded as the models got it. Raises
    ItemError."""
    import numpy as np

    array = decode(data, 3, key)
    if max(array.shape[:2]) <= SMALL:
        return ".png", encode_png(array)
    if max(array.shape[:2]) > LONGEST:
        image = to_pil(array)
        image.thumbnail((LONGEST, LONGEST))
        array = np.asarray(image)
    return ".jpg", encode_jpeg(array, quality=90)


def keys_of(class_names: Sequence[str]) -> list[str]:
    """The key of each class: its own name where all are one letter or digit, else 1 to 9 for the first nine
    and none for the others."""
    single = all(len(n) == 1 and n.isalnum() for n in class_names)
    if single and len({n.lower() for n in class_names}) == len(class_names):
        return [n.lower() for n in class_names]
    return [str(i + 1) if i < 9 else "" for i in range(len(class_names))]


def page(
    design: Design, pictures: Mapping[str, tuple[str, bytes]], class_names: Sequence[str], command: str
) -> str:
    """The page. ``pictures``: image's name -> (ending, bytes); ``command`` is what to run with the labels.
    Nothing on it says what any row predicted, nor the names of files and folders, which may tell the
    class."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg"}
    images = [
        {
            "name": c.name,
            "src": f"data:{kinds[end]};base64,{base64.b64encode(data).decode()}",
        }
        for c in design.chosen
        for end, data in [pictures[c.name]]
    ]
    classes = [
        {"name": name, "key": key, "cell": csv_bytes([[name]], end="").decode()}
        for name, key in zip(class_names, keys_of(class_names), strict=True)
    ]
    return load_page("page.html.j2", Path(__file__).parent).render(
        style=style_sheet(),
        run=redact(design.run),
        command=redact(command),
        data={
            "id": design.id,
            "header": ",".join(HEADER),
            "unknown": UNKNOWN,
            "images": images,
            "classes": classes,
        },
    )
