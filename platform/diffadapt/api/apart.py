"""A run or sweep on Ray in a process of its own: ``python -m diffadapt.api.apart <file descriptor>``.

Ray's native code ends the process that drives it where Ray dies under it, and leaves handlers and threads
behind. A person's interpreter, with all that it holds, is not to go with it. Errors, progress and Ctrl-C pass
between both; the process ends when the other end of its socket is closed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from diffadapt.core.errors import DiffadaptError, ResourceError, kinds
from diffadapt.core.functions import load_again, loaded
from diffadapt.core.interrupts import Interrupts
from diffadapt.core.redact import redact
from diffadapt.run.child import start
from diffadapt.run.progress import NodeProgress, Progress

MODULE = "diffadapt.api.apart"
FAREWELL_SECONDS = 60.0
"""How long a run that was interrupted may tidy up."""
Tell = Callable[..., None]


def call_apart(
    job: Callable[..., Any], *args: Any, progress: Progress | None = None, say: Tell = print
) -> Any:
    """``job(*args, tell)`` in a process of its own; what it returns. ``job`` is a function of a module that
    tells ``progress`` (by a :class:`Told`) or lines for ``say``.

    Raises what ``job`` raised, where that is a DiffadaptError; KeyboardInterrupt, after the process has ended
    as Ctrl-C ends a command; ResourceError where it ended without a word or could not take the job up.
    """
    packed = pickle.dumps((job, args))
    # A session of its own: an interruption comes from here, once, and not from the terminal as well.
    process, connection = start(MODULE, {}, stderr=subprocess.PIPE, start_new_session=True)
    last: deque[str] = deque(maxlen=1)
    shown = progress or Progress({})
    reader = threading.Thread(target=_pass_on, args=(process.stderr, last, shown), daemon=True)
    reader.start()
    try:
        connection.send((loaded(), packed))
        return _listen(connection, process, last, shown, say)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        try:
            process.wait(FAREWELL_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        connection.close()
        reader.join(1.0)
        shown.close()


def _listen(
    connection: Connection, process: subprocess.Popen, last: deque[str], progress: Progress, say: Tell
) -> Any:
    while True:
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            status = process.wait()
            if status == 130:
                raise KeyboardInterrupt from None
            said = f": {last[0]}" if last else f" (exit status {status})."
            raise ResourceError(f"The process that drove Ray has ended{said}") from None
        if kind == "result":
            return content
        if kind == "error":
            raise kinds().get(content[0], DiffadaptError)(content[1])
        if kind == "line":
            say(*content)
        elif kind == "nodes":
            progress.nodes = {name: NodeProgress(*counts) for name, counts in content.items()}
        else:
            getattr(progress, kind)(*content)


def _pass_on(stream: Any, last: deque[str], progress: Progress) -> None:
    """What the process writes to stderr appears here; its last line is kept."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            last.append(text)
            if progress.drawing:
                progress.above(text)
            else:
                print(text, file=sys.stderr, flush=True)


class Told(Progress):
    """The progress of a run in the other process: every receipt is told, and nothing is shown."""

    estimates = False

    def __init__(self, tell: Tell):
        super().__init__({})
        self._tell, self._named = tell, False

    def receipt(self, receipt: Any) -> None:
        self._pass("receipt", receipt)
        super().receipt(receipt)

    def fit(self, name: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        self._pass("fit", name, step, total, dict(scalars))
        super().fit(name, step, total, scalars)

    def say(self, sentence: str, kind: str = "warning: ") -> None:
        self._pass("say", sentence, kind)

    def show(self, name: str, force: bool = False) -> None:
        return None

    def _pass(self, kind: str, *content: Any) -> None:
        if not self._named and self.nodes:
            self._named = True
            self._tell("nodes", {name: (n.shards, n.items, n.done, n.hits) for name, n in self.nodes.items()})
        self._tell(kind, content)


class _Teller:
    """Says things to the other process, one at a time. Ray Tune stores a copy of all that a search holds,
    which nobody reads: a copy of this says nothing."""

    def __init__(self, connection: Connection):
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, kind: str, content: Any) -> None:
        with self._lock:
            self._connection.send((kind, content))

    def __reduce__(self) -> tuple[Any, ...]:
        return _mute, ()


def _mute() -> Tell:
    return lambda kind, content: None


def main(descriptor: int) -> int:
    """Do the job that is handed in, tell what came of it, and end."""
    connection = Connection(descriptor)
    tell = _Teller(connection)
    with Interrupts():
        try:
            files, packed = connection.recv()
            load_again(files)
            threading.Thread(target=_watch, args=(connection,), daemon=True).start()
            job, args = _taken_up(packed)
            tell("result", job(*args, tell))
        except KeyboardInterrupt:
            return 130
        except (BrokenPipeError, ConnectionResetError):
            return 1
        except DiffadaptError as error:
            tell("error", (type(error).__name__, redact(str(error))))
            return 2
    return 0


def _taken_up(packed: bytes) -> Any:
    try:
        return pickle.loads(packed)
    except (AttributeError, ImportError) as error:
        raise ResourceError(
            f"The recipe cannot be taken to the process that drives Ray ({error}): put its classes into a"
            ' file that can be imported, or use runner="local".'
        ) from None


def _watch(connection: Connection) -> None:
    """Nothing is said from the other end but that it is gone: then this run is over too."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
