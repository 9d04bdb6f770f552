"""How far a run is: a table that is kept up to date in a notebook, lines on stderr elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from diffadapt.core.redact import redact
from diffadapt.core.units import format_seconds
from diffadapt.run.progress import Progress

LOOK = 0.5
"""Seconds between two pictures of the table."""


@contextlib.contextmanager
def progress_of(wanted: bool) -> Iterator[Progress | None]:
    """The progress that a call is to show: None for the driver's own, on stderr."""
    if not wanted:
        with open(os.devnull, "w") as nowhere:
            yield Progress({}, stream=nowhere)
    elif in_notebook():
        shown = NotebookProgress({})
        try:
            yield shown
        finally:
            shown.draw()
    else:
        yield None


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose cells can show more than text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class NotebookProgress(Progress):
    """All stages in one table under the cell, with bars drawn by rich."""

    _handle: Any = None
    _said: tuple[str, ...] = ()

    def show(self, name: str, force: bool = False) -> None:
        if force or time.monotonic() - self._printed >= LOOK:
            self._printed = time.monotonic()
            self.draw()

    def say(self, sentence: str, kind: str = "warning: ") -> None:
        self._said += (f"{kind}{redact(sentence)}",)
        self.draw()

    def begin(self) -> None:
        return None

    def draw(self) -> None:
        """The table as it is now, in place of the last one."""
        from IPython.display import display  # type: ignore[import-not-found]

        text, page = self.rendered()
        data = {"text/plain": text, "text/html": page}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def rendered(self) -> tuple[str, str]:
        """(plain text, HTML) of the table and of what was said."""
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("stage", "", "done", "", "left"):
            table.add_column(title)
        for name, node in self.nodes.items():
            total, done = (
                (node.steps, node.step) if node.steps else (node.shards, node.done + node.hits + node.failed)
            )
            if not total:
                continue
            left, rate = node.left(), node.rate()
            table.add_row(
                name,
                ProgressBar(total=total, completed=done, width=24),
                f"{done}/{total} {'steps' if node.steps else 'shards'}",
                node.note or (f"{rate:.1f} images/s" if rate and not node.steps else ""),
                format_seconds(left) if left is not None else "",
            )
        console = Console(file=io.StringIO(), record=True, width=110, force_jupyter=False)
        console.print(table)
        for sentence in self._said:
            console.print(sentence, markup=False, highlight=False)
        page = console.export_html(
            inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>', clear=False
        )
        return console.export_text(), page
