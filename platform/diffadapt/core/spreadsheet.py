"""CSV as spreadsheets open it: a cell of text that would be taken for a formula begins with an apostrophe, by
which they take it for text (the way that OWASP recommends), and which is taken off where it is read again."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from diffadapt.core.errors import DataError

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_QUOTED = re.compile(r"'+[=+\-@\t\r\n]")
_SEPARATORS = ",;\t"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def csv_bytes(rows: Iterable[Iterable[object]], end: str = "\n") -> bytes:
    """``rows`` as CSV in UTF-8, each line with ``end`` after it. Numbers stay as they are, as text too."""
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow([quoted(cell) for cell in row])  # of both ends of lines, cells are quoted
        lines.append(line.getvalue().removesuffix("\r\n") + end)
    return "".join(lines).encode()


def quoted(cell: object) -> object:
    """``cell`` with an apostrophe before text that begins like a formula and is no number, also where there
    are apostrophes before that already: :func:`plain` gives every text back."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return "'" + cell
    return cell


def plain(cell: str) -> str:
    """The text that :func:`quoted` made ``cell`` of."""
    return cell[1:] if _QUOTED.match(cell) else cell


def read_rows(data: bytes, what: str, loose: bool = False) -> list[tuple[int, list[str]]]:
    """(number, cells) of every row of a CSV file that is not empty, as spreadsheets of any system save it:
    UTF-8 with or without a byte order mark, or UTF-16; commas, else semicolons, else tabs, by the first row;
    line ends of any kind. ``loose``: spaces before a quoted cell do not count.

    ``what`` begins the sentence of the DataError for what is no text or no CSV, such as 'The label file
    labels.csv'.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if "\0" in text:
            raise ValueError
    except ValueError as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{what} is no text in UTF-8{place}, perhaps a spreadsheet's own format: save it as CSV UTF-8."
        ) from None
    stream = io.StringIO(text, newline="")
    try:
        rows = list(csv.reader(stream, delimiter=_separator(text), skipinitialspace=loose))
    except csv.Error as error:
        raise DataError(
            f"{what} cannot be read as CSV ({error}): look for a quotation mark that is not closed."
        ) from None
    return [(i, row) for i, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]


def _separator(text: str) -> str:
    """The one that the first row has; rows that begin with # are comments."""
    head = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    quoted = re.sub(r'"[^"]*"', "", head)
    return next((s for s in _SEPARATORS if s in quoted), _SEPARATORS[0])
