"""What the screen that a stream goes to can show."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

PLAIN = 100
"""Columns of text that goes to no terminal, where COLUMNS does not say otherwise."""


def columns(stream: TextIO | None = None) -> int:
    """Columns of the terminal of ``stream`` (default: standard output), as COLUMNS says or as it is now;
    PLAIN where there is none."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or PLAIN
    except (OSError, ValueError, AttributeError):
        return shutil.get_terminal_size((PLAIN, 24)).columns


def coloured(stream: TextIO | None = None) -> bool:
    """Whether text may have colours: a terminal, not TERM=dumb, and NO_COLOR is empty (no-color.org)."""
    return redrawn(stream) and not os.environ.get("NO_COLOR")


def redrawn(stream: TextIO | None = None) -> bool:
    """Whether lines that stand there can be written anew: a terminal that moves its cursor."""
    out = stream or sys.stdout
    return out.isatty() and os.environ.get("TERM") != "dumb"


def cut(line: str, width: int) -> str:
    """``line`` on at most ``width`` columns, '...' in place of what does not fit."""
    return line if len(line) <= width else line[: max(0, width - 3)].rstrip() + "..."[: max(0, width)]


def wrapped(text: str, width: int, indent: str = "  ") -> str:
    """``text`` on lines of at most ``width`` columns, the first one after ``indent`` and the others deeper;
    paths and options stay whole, whatever their length."""
    return textwrap.fill(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
