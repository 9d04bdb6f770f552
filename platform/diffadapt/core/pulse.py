"""Whether a process gets on with its work, seen from a thread of its own, whatever the work is."""

from __future__ import annotations

import sys
import threading


class Pulse:
    """Where all threads of this process are in their Python code, but for the one that looks.

    Work moves through that code all the time (every layer of a network is a call). A process that waits for a
    lock, a device or a peer that never answers stands at the same place at every look, however alive its
    threads and however busy its cores are: neither a sign of life from a thread nor CPU time would tell.
    """

    def __init__(self) -> None:
        self._before: object = None

    def moved(self) -> bool:
        """Whether any thread is elsewhere than at the last look."""
        own, now = threading.get_ident(), []
        for thread, frame in sorted(sys._current_frames().items(), key=lambda item: item[0]):
            if thread == own:
                continue
            while frame is not None:
                now.append((thread, id(frame.f_code), frame.f_lasti))
                frame = frame.f_back  # type: ignore[assignment]
        before, self._before = self._before, now
        return now != before
