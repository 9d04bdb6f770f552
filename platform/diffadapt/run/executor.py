"""Makes shards in one process: opens each stage's worker once, reads inputs, quarantines bad items, commits.

The local runner holds one executor, every Ray actor holds one; both therefore write the same bytes.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from diffadapt.core import interrupts
from diffadapt.core.artifact import Receipt, Rows
from diffadapt.core.causes import full_disk
from diffadapt.core.errors import DiffadaptError, StoreError
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import InputFile, Stage, WorkContext, Worker
from diffadapt.core.store import Store
from diffadapt.run.readers import readers_for

THREAD_VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Executor:
    """Carries out shard tasks against a store.

    ``stages`` maps node names to stages; ``resident`` bounds how many workers (loaded models) stay in memory.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        store: Store,
        *,
        device: str = "cpu",
        resident: int = 8,
        threads: int = 1,
    ):
        self.stages = dict(stages)
        self.store = store
        self.device = device
        self.resident = max(1, resident)
        self.threads = threads
        self.readers = readers_for(device, threads)
        self.workers: OrderedDict[str, Worker] = OrderedDict()
        self._last: tuple[str, Rows] | None = None
        self._next: Task | None = None
        self._ahead: tuple[str, Future[list[Rows] | None]] | None = None
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def expect(self, task: Task | None) -> None:
        """Told what comes after the chain that is run next: its inputs are read, and their decoding begun,
        while that is worked on, where there are readers."""
        self._next = task if self.readers else None

    def run_chain(self, chain: Chain, begin: Callable[[Task], None] | None = None) -> Iterator[Receipt]:
        """Make the shards of a chain, as far as they succeed: what follows one that failed needs it.
        ``begin`` is told of each before it."""
        for task in chain.tasks:
            if begin is not None:
                begin(task)
            receipt = self.run(task)
            yield receipt
            if receipt.status == "failed":
                return

    def run(self, task: Task) -> Receipt:
        """Make one shard unless it is there. Never raises for what one shard can cause: the receipt says
        ``failed``."""
        start = time.perf_counter()
        worker_name = f"{os.uname().nodename}:{os.getpid()}"
        try:
            if self.store.exists(task.path):
                count, failures, _ = self.store.header(task.path)
                return Receipt(
                    task.node, task.shard.key, task.digest, "hit", count, tuple(failures), 0.0, worker_name
                )
            rows = self._make(task)
            interrupts.check()
            self.store.commit(task.path, rows, {"digest": task.digest, "key": task.shard.key})
            self._last = (task.digest, rows)
            return Receipt(
                task.node,
                task.shard.key,
                task.digest,
                "made",
                len(rows),
                tuple(rows.failures),
                time.perf_counter() - start,
                worker_name,
                batch_size=getattr(self.workers.get(self._worker_key(task)), "batch_size", 0) or 0,
                warnings=tuple(rows.warnings),
                device=device_name(self.device),
            )
        except DiffadaptError as error:
            interrupts.check()
            message = f"{type(error).__name__}: {one_line(error)}"
        except Exception as error:  # a bug or a library's failure: keep the evidence, let other shards go on
            interrupts.check()
            message = evidence(error)
        return failed(task, message, time.perf_counter() - start, worker_name)

    def read(self, file: InputFile) -> Rows:
        """The rows of one input: from memory if just made, from the store, or from a virtual stage."""
        if self._last and self._last[0] == file.digest:
            return self._last[1]
        if file.path is None:
            plan = file.plan or file.node
            return self._worker(plan, plan, ()).run(file.shard, ())
        return self.store.load(file.path)

    def fitted_folder(self, file: InputFile) -> str:
        """A local folder with the fitted artefact, downloaded once a machine when the store is remote."""
        return fetch_folder(self.store, file)

    def _make(self, task: Task) -> Rows:
        worker = self._worker(self._worker_key(task), task.node, [f for f in task.inputs if f.fitted])
        inputs = self._read_before(task)
        if inputs is None:
            inputs = [self.read(f) for f in task.inputs if not f.fitted]
        if self._next is not None:
            self._ahead = (self._next.digest, self._reading.submit(self._read_ahead, self._next))
            self._next = None
        return worker.run(task.shard, inputs)

    def _read_before(self, task: Task) -> list[Rows] | None:
        if self._ahead is None or self._ahead[0] != task.digest:
            return None
        found, self._ahead = self._ahead[1].result(), None
        return found

    def _read_ahead(self, task: Task) -> list[Rows] | None:
        """The inputs of ``task``; None where they are not wanted, or have to be read when their turn comes,
        which tells what is wrong with them."""
        try:
            if self.store.exists(task.path):
                return None
            found = []
            for file in task.inputs:
                if file.fitted:
                    continue
                if file.path is not None:
                    found.append(self.store.load(file.path))
                elif (reader := self.workers.get(file.plan or file.node)) is not None:
                    found.append(reader.run(file.shard, ()))
                else:
                    return None
            begin = getattr(self.workers.get(self._worker_key(task)), "begin", None)
            if begin is not None:
                begin(found)
            return found
        except Exception:
            return None

    def _worker_key(self, task: Task) -> str:
        return "|".join([task.node, *(f.digest for f in task.inputs if f.fitted)])

    def _worker(self, key: str, node: str, fitted: Sequence[InputFile]) -> Worker:
        if key not in self.workers:
            while len(self.workers) >= self.resident:
                self.workers.popitem(last=False)
            folders = {f.node: self.fitted_folder(f) for f in fitted}
            kinds = {f.node: f.kind for f in fitted}
            context = WorkContext(
                self.device, folders, threads=self.threads, readers=self.readers, kinds=kinds
            )
            self.workers[key] = self.stages[node].open(context)
        self.workers.move_to_end(key)
        return self.workers[key]


def followed(chains: Sequence[Chain]) -> Iterator[tuple[Chain, Task | None]]:
    """Each chain with the first task of the next one (:meth:`Executor.expect`)."""
    for chain, after in zip(chains, [*chains[1:], None], strict=True):
        yield chain, after.tasks[0] if after is not None and after.tasks else None


def failed(task: Task, error: str, seconds: float = 0.0, worker: str = "") -> Receipt:
    """The receipt of a shard or fit that could not be made."""
    return Receipt(task.node, task.shard.key, task.digest, "failed", 0, (), seconds, worker, error)


def lost_worker(times: int, label: str) -> str:
    """The error of what ended its worker process ``times`` times."""
    return (
        f"ResourceError: the worker process ended {times} times while it made {label} (out of"
        " memory, or a crash in a native library): give each worker more memory with fewer"
        " --execution.actors or a smaller batch, then run the same command again; finished shards are kept."
    )


def limit_threads(threads: int) -> None:
    """Bound the CPU threads of this process, whether torch is imported already or later."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks: in a receipt, what follows the first line is a traceback."""
    return " ".join(str(error).split())


def evidence(error: BaseException) -> str:
    """The message of an error that is not the user's, with its traceback; a full disk is the user's."""
    if found := full_disk(error):
        return (
            f"StoreError: The disk that holds {found[1]} {found[0]}: free space, then run the same command;"
            " finished shards are kept."
        )
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def fetch_folder(store: Store, file: InputFile) -> str:
    """The local path of a fitted artefact's folder, its content checked; a remote one is copied to the
    machine's cache once (:mod:`~diffadapt.core.local_cache`).

    StoreError when it is damaged, or cannot be copied.
    """
    assert file.path is not None
    folder = Sealed(store, file.path)
    if store.local:
        folder.demand()
        return store.join(file.path)
    name, checksums = f"fit-{file.digest}", folder.checksums()
    cache = LocalCache()
    if (copy := cache.find(name, checksums)) is None:
        with cache.making(name, checksums) as making:
            if making.existing is None:
                for relative, data in folder.contents():
                    target = making.folder / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
        copy = cache.find(name, checksums)
    if copy is None:
        raise StoreError(
            f"The copy of the trained model {file.path} in {cache.folder} is lost as soon as it is made: set"
            " DIFFADAPT_CACHE to a folder that nothing else tidies."
        )
    return str(copy.folder)


def device_name(device: str) -> str:
    """'cpu', or the accelerator's own name, as the ledger of measured work keeps it; plainly ``device`` where
    torch is not loaded or has no such one."""
    torch = sys.modules.get("torch")  # a worker that never needed it must not load it for a name
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return device
    return torch.cuda.get_device_name(device)


def choose_device(wanted: str) -> str:
    """'cuda' or 'cpu' for ``auto``; DiffadaptError when CUDA is asked for and absent."""
    if wanted == "cpu":
        return wanted
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        from diffadapt.core.errors import ResourceError

        raise ResourceError(
            "A CUDA device was asked for but this machine has none: use --execution.device cpu, or run on a"
            " cluster with GPUs."
        )
    return wanted
