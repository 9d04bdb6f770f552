"""One worker process of the local pool: ``python -m diffadapt.run.local_worker <file descriptor>``.

Ends at once when the other end of its socket is closed, whatever it does at that moment: commits are whole or
not at all.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from diffadapt.core.interrupts import Interrupts
from diffadapt.core.schedule import Chain, Task


def main(descriptor: int) -> int:
    """Work until told to end. SIGTERM ends it as Ctrl-C ends a command; Ctrl-C itself is the driver's."""
    from diffadapt.run.executor import one_line

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    inbox: queue.Queue[tuple[Any, ...]] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    with Interrupts():
        try:
            _work(connection, inbox)
        except KeyboardInterrupt:
            return 130
        except (BrokenPipeError, ConnectionResetError):  # the driver is gone
            return 1
        except Exception as error:  # not of a shard or fit, which have receipts
            connection.send(("broken", f"{type(error).__name__}: {one_line(error)}"))
            return 1
    return 0


def _listen(connection: Connection, inbox: queue.Queue[tuple[Any, ...]]) -> None:
    while True:
        try:
            packed = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)
        inbox.put((packed,))


def _work(connection: Connection, inbox: queue.Queue[tuple[Any, ...]]) -> None:
    from diffadapt.core.functions import load_again

    kind, config, files, handed_in = pickle.loads(inbox.get()[0])
    from diffadapt.prompts.backends.base import HANDED_IN
    from diffadapt.run.executor import choose_device, limit_threads

    load_again(files)
    HANDED_IN.update(handed_in)
    limit_threads(config.threads)
    desk = _Desk(config, choose_device(config.device), connection)
    connection.send(("up",))
    while True:
        kind, *content = pickle.loads(inbox.get()[0])
        if kind == "end":
            return
        if kind == "place":
            desk.settle(*pickle.loads(content[0]))
            continue
        work = content[0]
        if isinstance(work, Chain):
            desk.make(work)
        else:
            desk.fit(work)
        connection.send(("done",))


class _Desk:
    """Carries out chains and fits of one set of stages on one store."""

    def __init__(self, config: Any, device: str, connection: Connection):
        self.config, self.device, self.connection = config, device, connection

    def settle(self, stages: Mapping[str, Any], store: Any, log_dir: str) -> None:
        from diffadapt.run.executor import Executor

        self.stages, self.store, self.log_dir = stages, store, log_dir
        resident, threads = self.config.resident_models, self.config.threads
        self.executor = Executor(stages, store, device=self.device, resident=resident, threads=threads)

    def make(self, chain: Chain) -> None:
        for receipt in self.executor.run_chain(chain):
            self.connection.send(("receipt", receipt))

    def fit(self, task: Task) -> None:
        from diffadapt.run.local import fit_here
        from diffadapt.train.reporter import throttled

        tell = throttled(lambda *told: self.connection.send(("progress", task.node, *told)))
        receipt = fit_here(
            task,
            self.stages,
            self.store,
            self.log_dir,
            lambda node, *told: tell(*told),
            self.device,
            self.config,
        )
        self.connection.send(("receipt", receipt))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
