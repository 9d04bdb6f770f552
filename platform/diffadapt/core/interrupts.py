"""Ctrl-C and SIGTERM that cannot get lost: both raise KeyboardInterrupt, and are remembered.

A library written in C or Rust may turn the KeyboardInterrupt that reaches it into an error of its own;
:func:`check` then tells an interruption from bad input before anything is concluded from that error.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_seen = False
_held = False


class Interrupts:
    """Within this context SIGINT and SIGTERM raise KeyboardInterrupt; an ignored SIGINT stays ignored, and
    afterwards both mean what they meant before.

    Within another such context, and outside the main thread, which alone may say what signals do, nothing
    changes.
    """

    def __enter__(self) -> Interrupts:
        global _seen, _held
        self._previous: dict[int, Any] = {}
        self._outermost = not _held and threading.current_thread() is threading.main_thread()
        if not self._outermost:
            return self
        _seen, _held = False, True
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        self._previous.update({n: signal.signal(n, _raise) for n in numbers})
        return self

    def __exit__(self, *error: object) -> None:
        global _seen, _held
        if not self._outermost:
            return
        _seen, _held = False, False
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def seen() -> bool:
    """Whether an interruption arrived since the context was entered."""
    return _seen


def check() -> None:
    """Raise KeyboardInterrupt if an interruption arrived and its exception was lost on the way."""
    if _seen:
        raise KeyboardInterrupt


def _raise(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
