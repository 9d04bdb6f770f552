"""Planning without weights or data at hand: what is missing is noted, and counts come from what is
published."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from diffadapt.core.errors import DiffadaptError, UnfitError

_notes: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def lenient() -> Iterator[list[str]]:
    """Within this context :func:`missing` collects sentences instead of raising; yields the list."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def missing(error: DiffadaptError) -> None:
    """Raise ``error``, or note it when planning leniently; an UnfitError is raised always."""
    notes = _notes.get()
    if notes is None or isinstance(error, UnfitError):
        raise error
    if str(error) not in notes:
        notes.append(str(error))
