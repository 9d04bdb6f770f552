"""Whether a process gets on with its work, seen from a thread of its own, whatever the work is."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any


class Pulse:
    """Where the threads that work are in their Python code, and what they count there.

    Work moves through that code (each layer of a network is a call) and counts what it has done: the places
    differ from look to look or, where most of the time goes into one call, the local variables do (the batch
    that is at work, the step). A process that waits for a lock, a device or a peer that never answers stands
    at one place with the same values, however alive its threads and however busy its cores are: neither a
    sign of life from a thread nor CPU time would tell. Looked at are threads that are no daemons (these wake
    up for reasons of their own), and ``thread``.
    """

    def __init__(self) -> None:
        self.thread = 0
        """The one that works, where it may be a daemon."""
        self._before: object = None

    def moved(self) -> bool:
        """Whether anything is otherwise than at the last look."""
        own, frames = threading.get_ident(), sys._current_frames()
        working = {t.ident for t in threading.enumerate() if not t.daemon} | {self.thread}
        now = [(i, _stack(frames[i])) for i in sorted(frames.keys() & working - {own})]
        before, self._before = self._before, now
        return now != before


def _stack(frame: FrameType | None) -> list[Any]:
    result: list[Any] = []
    while frame is not None:
        values = [(name, _value(value)) for name, value in list(frame.f_locals.items())]
        result.append((id(frame.f_code), frame.f_lasti, values))
        frame = frame.f_back
    return result


def _value(value: Any) -> Any:
    """What tells a value from its successor without keeping it alive."""
    return value if type(value) in (int, float, bool) else id(value)
