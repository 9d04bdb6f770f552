"""CSV as spreadsheets open it: a cell of text that would be taken for a formula begins with an apostrophe, by
which they take it for text (the way that OWASP recommends), and which is taken off where it is read again."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_QUOTED = re.compile(r"'+[=+\-@\t\r\n]")
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
