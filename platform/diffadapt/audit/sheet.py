"""The CSV of an audit: a line ``image,class`` for every chosen image, filled in by the page or by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from diffadapt.audit.design import Design
from diffadapt.core.errors import DataError, suggest
from diffadapt.core.location import open_place
from diffadapt.core.spreadsheet import csv_bytes, plain, read_rows
from diffadapt.data.class_names import match_names
from diffadapt.data.labels import HEADERS, some

HEADER = ("image", "class")
UNKNOWN = "?"
"""What stands for a class that cannot be told."""
_NAME = re.compile(r"([0-9a-f]{8})-\d+")


def sheet(design: Design) -> bytes:
    """The CSV to fill in."""
    return csv_bytes([HEADER, *((c.name, "") for c in design.chosen)], end="\r\n")


def read_sheet(location: str) -> tuple[str, dict[str, str]]:
    """(id of the audit, image -> what stands in the class column) of a filled CSV: UTF-8 with or without a
    byte order mark, or UTF-16; commas, semicolons or tabs; a header or none.

    Raises DataError for a file that cannot be read, holds no image of an audit or those of several, and for
    an image that is there twice.
    """
    rows = _rows(location)
    if rows and rows[0][1][0].strip().lower() in HEADERS:
        rows = rows[1:]
    found: dict[str, str] = {}
    audits: set[str] = set()
    for line, row in rows:
        name = _stem(row[0])
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"Line {line} of {location} begins with {row[0].strip()[:60]!r}, which is no image of an"
                f" audit: keep the"
                " first column of labels.csv as it was written."
            )
        if name in found:
            raise DataError(f"Line {line} of {location} has {name} a second time: keep one line an image.")
        audits.add(match[1])
        found[name] = plain(row[1].strip()) if len(row) > 1 else ""
    if not found:
        raise DataError(f"{location} has no line image,class: give the labels.csv of an audit, filled in.")
    if len(audits) > 1:
        raise DataError(
            f"{location} holds images of several audits ({', '.join(sorted(audits))}): give one CSV an audit."
        )
    return audits.pop(), found


def labels_of(
    found: Mapping[str, str], design: Design, class_names: Sequence[str], location: str
) -> dict[int, int | None]:
    """Position among the chosen images -> class, None where it cannot be told; images without an entry are
    left out. Raises DataError for images that the audit has not, and for classes that the run has not."""
    at = {c.name: i for i, c in enumerate(design.chosen)}
    unknown = [name for name in found if name not in at]
    if unknown:
        raise DataError(
            f"{location} names {some(unknown, 3)}, which the audit {design.id} has not: keep the first"
            f" column of"
            " labels.csv as it was written."
        )
    said = {name: text for name, text in found.items() if text and text != UNKNOWN}
    label = {text: _bound(class_names, text) for text in set(said.values())}
    strange = sorted(text for text, place in label.items() if place is None)
    if strange:
        raise DataError(
            f"{location} has the class{'es' if len(strange) > 1 else ''} {some(strange, 3)}, which the run"
            f" has"
            f" not.{suggest(strange[0], class_names)} Its classes are {some(class_names)}; {UNKNOWN!r}"
            f" stands for one"
            " that cannot be told."
        )
    result: dict[int, int | None] = {at[name]: label[text] for name, text in said.items()}
    return {**result, **{at[name]: None for name, text in found.items() if text == UNKNOWN}}


def _bound(class_names: Sequence[str], text: str) -> int | None:
    try:
        return match_names(class_names, [text], "")[text]
    except DataError:
        return None


def _stem(cell: str) -> str:
    """``3f9c2a1b-017`` of that, or of the name of its file in any folder."""
    return plain(cell.strip()).replace("\\", "/").rpartition("/")[2].partition(".")[0]


def _rows(location: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of every line that is not empty."""
    try:
        with open_place(location, "rb", DataError) as stream:
            data = stream.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"The labels {location} cannot be read ({getattr(error, 'strerror', None) or error}): give the"
            f" CSV that"
            " the page saved, or the labels.csv of the audit's folder."
        ) from None
    return read_rows(data, f"The labels file {location}")
