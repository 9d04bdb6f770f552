"""A pool of actors on Ray Data that makes chains of shards: bundles of chains in, one receipt a shard out.

Actors write their shards to the store themselves; only names and receipts travel. A bundle that was lost with
its actor is made again from where the store says it stopped, so that at most the open shard of an actor is
done twice.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import ray
import ray.exceptions

from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import ResourceError
from diffadapt.core.pulse import Pulse
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import InputFile, Stage
from diffadapt.core.store import Store
from diffadapt.core.units import format_seconds
from diffadapt.orchestrate.connection import quiet_logs
from diffadapt.orchestrate.journal import Journal, here
from diffadapt.orchestrate.resources import Layout
from diffadapt.run.executor import Executor, failed, followed, limit_threads, lost_worker, one_line
from diffadapt.run.runner import OnReceipt

MAX_RESTARTS = 3
MAX_RETRIES = 2
MAX_BUNDLES = 4096
"""Bundles a pool is given at most; each is one object reference that the driver keeps."""
STILL_SECONDS = 1800.0
"""A shard may take as long as it gets on. An actor whose work stands at one place for so long hangs: its
process is ended, and the shard begun anew."""
LOOKS = 180
"""How often an actor looks in that time whether it gets on."""
UNGIVEN_SECONDS = 1800.0
"""How long no actor of a pool may have a shard before it is taken for broken and another follows."""
WATCH_SECONDS = 2.0
STRANDED_SECONDS = 10.0
"""How long nobody may have work but actors of lost nodes, before these are given up and their bundles given
to others. As long as others work they are kept: a node that comes instead is theirs."""
SILENT_SECONDS = 30.0
"""How long a pool may have no actor before the driver says what it waits for."""
SILENT_AGAIN = 20
"""How many times as long until it says so again."""

log = logging.getLogger(__name__)


class ShardActor:
    """One process of the pool: an executor with its loaded models, and the journal that knows what is
    open."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        store: Store,
        device: str,
        resident: int,
        threads: int,
        journal: Any,
        look_seconds: float,
    ):
        limit_threads(threads)
        self.executor = Executor(stages, store, device=device, resident=resident, threads=threads)
        self.journal = journal
        context = ray.get_runtime_context()
        self.actor = context.get_actor_id()
        ray.get(journal.register.remote(self.actor, context.get_node_id(), context.current_actor))
        self.pulse = Pulse()
        threading.Thread(target=self._look, args=(look_seconds,), daemon=True).start()

    def _look(self, seconds: float) -> None:
        while True:
            time.sleep(seconds)
            if self.pulse.moved():
                self.journal.moved.remote(self.actor)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for packed in batch["bundle"]:
            for chain, after in followed(pickle.loads(packed)):
                self.executor.expect(after)
                for receipt in self.executor.run_chain(chain, self._begin):
                    self.journal.end.remote(self.actor, receipt.digest)
                    yield {"receipt": [pickle.dumps(receipt)]}

    def _begin(self, task: Task) -> None:
        self.pulse.thread = threading.get_ident()
        # Waited for: if this shard ends the process, the journal must know which one it was.
        ray.get(self.journal.begin.remote(self.actor, task.digest, f"{task.node} {task.shard.key}"))


def run_chains(
    chains: Sequence[Chain],
    stages: Mapping[str, Stage],
    store: Store,
    layout: Callable[[], Layout],
    resident: int,
    on_receipt: OnReceipt,
) -> None:
    """Make every shard of ``chains`` and hand each receipt to ``on_receipt`` once, as it arrives, in any
    order.

    A shard that ends its worker process every time gets a ``failed`` receipt; chains that were lost with an
    actor or a node are given to a new pool, as large as ``layout()`` says then. Raises ResourceError when the
    cluster makes nothing at all any more.
    """
    journal: Any = Journal.options(scheduling_strategy=here()).remote()
    book = _Book(chains, on_receipt)
    while left := book.left():
        before = book.received
        journal.new_pool.remote()
        error = _one_round(left, stages, store, layout(), resident, journal, book)
        fatal = cast(dict[str, str], ray.get(journal.fatal.remote(MAX_RETRIES + 1)))
        hung = cast(set[str], ray.get(journal.stood_still.remote())) if fatal else set()
        for digest, label in fatal.items():
            book.fail(digest, (stood_still if digest in hung else lost_worker)(MAX_RETRIES + 1, label))
        if book.received == before:
            raise ResourceError(
                f"The workers of the cluster made nothing: {reason(error)}. Look at `ray status` and the"
                " workers' logs, then run the same command again; finished shards are kept."
            )
    ray.kill(journal)


class _Book:
    """Which shards of which chains have a receipt."""

    def __init__(self, chains: Sequence[Chain], on_receipt: OnReceipt):
        self.chains, self.on_receipt = chains, on_receipt
        self.tasks = {t.digest: t for c in chains for t in c.tasks}
        self.status: dict[str, str] = {}

    @property
    def received(self) -> int:
        return len(self.status)

    def add(self, receipt: Receipt) -> None:
        if receipt.digest not in self.status:
            self.status[receipt.digest] = receipt.status
            self.on_receipt(receipt)

    def fail(self, digest: str, message: str) -> None:
        task = self.tasks.get(digest)
        if task is not None:
            self.add(failed(task, message))

    def left(self) -> list[Chain]:
        return [c for c in self.chains if not self._settled(c)]

    def _settled(self, chain: Chain) -> bool:
        for task in chain.tasks:
            if self.status.get(task.digest) == "failed":
                return True
            if task.digest not in self.status:
                return False
        return True


def _one_round(
    chains: list[Chain],
    stages: Mapping,
    store: Store,
    layout: Layout,
    resident: int,
    journal: Any,
    book: _Book,
) -> Exception | None:
    """One pool over ``chains``; returns what ended it early, if anything did."""
    bundles = bundle(chains, layout.actors)
    dataset = _dataset(bundles, stages, store, layout, resident, journal)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(journal, stop), daemon=True)
    watcher.start()
    rows = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"))
    try:
        while True:
            try:
                batch = next(rows)
            except StopIteration:
                return None
            except Exception as error:  # whatever Ray raises; the book knows what is left
                log.debug("The pool ended early.", exc_info=True)
                return error
            for packed in batch["receipt"]:
                book.add(pickle.loads(packed))
    finally:
        stop.set()
        watcher.join(timeout=2 * WATCH_SECONDS)


def _dataset(
    bundles: list[bytes], stages: Mapping, store: Store, layout: Layout, resident: int, journal: Any
) -> Any:
    import ray.data

    quiet_logs()
    dataset = ray.data.from_items([{"bundle": b} for b in bundles], override_num_blocks=len(bundles))
    context = dataset.context
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # every receipt leaves its actor at once
    context.max_errored_blocks = -1  # a lost bundle must not end the others; the book notices what is missing
    context.execution_no_progress_timeout_s = -1  # a shard takes as long as it takes; _watch finds what hangs
    with warnings.catch_warnings():  # 2.60 deprecates these two arguments and offers no others
        warnings.simplefilter("ignore", DeprecationWarning)
        return dataset.map_batches(
            ShardActor,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(
                dict(stages),
                store,
                layout.device,
                resident,
                layout.threads,
                journal,
                STILL_SECONDS / LOOKS,
            ),
            compute=ray.data.ActorPoolStrategy(
                size=min(layout.actors, len(bundles)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=layout.actor.cpus,
            num_gpus=layout.actor.gpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RETRIES,
        )


def bundle(chains: Sequence[Chain], actors: int) -> list[bytes]:
    """Pickled bundles of chains: single chains where there are few, larger ones where there are very many,
    shrinking towards the end so that all actors finish together."""
    largest = math.ceil(len(chains) / MAX_BUNDLES)
    bundles, start = [], 0
    while start < len(chains):
        size = min(largest, max(1, (len(chains) - start) // (4 * actors)))
        bundles.append(pickle.dumps([_slim(c) for c in chains[start : start + size]]))
        start += size
    return bundles


def _slim(chain: Chain) -> Chain:
    """Without the inputs of the inputs: a fitted model was made of thousands of shards, which nobody reads
    again."""
    if not any(_heavy(f) for t in chain.tasks for f in t.inputs):
        return chain
    return Chain(
        tuple(dataclasses.replace(t, inputs=tuple(_slim_input(f) for f in t.inputs)) for t in chain.tasks)
    )


def _slim_input(file: InputFile) -> InputFile:
    return (
        dataclasses.replace(file, shard=dataclasses.replace(file.shard, inputs=())) if _heavy(file) else file
    )


def _heavy(file: InputFile) -> bool:
    return file.path is not None and bool(file.shard.inputs)


def _watch(journal: Any, stop: threading.Event) -> None:
    """End actors that hang, and give up those of lost nodes when nobody else has work left: their bundles
    would wait for ever."""
    since = idle_since = busy_since = time.monotonic()
    while not stop.wait(WATCH_SECONDS):
        try:
            alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
            busy, stranded, count, still = ray.get(
                [
                    journal.busy.remote(alive),
                    journal.stranded.remote(alive),
                    journal.count.remote(),
                    journal.stand_still.remote(alive, STILL_SECONDS),
                ],
                timeout=30,
            )
            now = time.monotonic()
            if busy or not count:
                busy_since = now
            elif now - busy_since > UNGIVEN_SECONDS:  # nobody is given what is left
                stranded, idle_since = ray.get(journal.everyone.remote(), timeout=30), -math.inf
            if busy or not stranded:
                idle_since = now
            elif now - idle_since > STRANDED_SECONDS:
                for handle in ray.get(journal.forget.remote(stranded), timeout=30):
                    ray.kill(handle, no_restart=True)
            for handle, label in still:
                log.warning(
                    f"A worker has stood still for {format_seconds(STILL_SECONDS)} while it made {label}: its"
                    " process is ended, and the shard begun anew."
                )
                ray.kill(handle, no_restart=False)
            if not count and now - since > SILENT_SECONDS:
                since = now + SILENT_SECONDS * (SILENT_AGAIN - 1)
                log.warning(
                    "No worker has started yet: nodes are being started, or others use what the cluster has"
                    " (`ray status` tells)."
                )
        except Exception:  # the cluster may be on its way down; the main loop reports that
            log.debug("The watch over nodes failed.", exc_info=True)


def stood_still(times: int, label: str) -> str:
    """The error of what made its worker hang ``times`` times."""
    return (
        f"ResourceError: the worker process stood still for {format_seconds(STILL_SECONDS)} and was ended,"
        f" {times} times, while it made {label}: look for a lock, a device or a server that never answers,"
        " then run the same command again; finished shards are kept."
    )


_OWN_ERROR = r"(?!Ray|Actor|Worker|Node|Object|Task)\w*(Error|Exception): .+"


def reason(error: BaseException | None) -> str:
    """What ended the pool, as a part of a sentence in words of this project: an error of the work itself is
    told as it is, one of Ray's by what it means."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    if any(isinstance(e, (MemoryError, ray.exceptions.OutOfMemoryError)) for e in seen):
        return "their machine ran out of memory"
    for e in seen:
        if not type(e).__module__.startswith("ray."):
            return f"{type(e).__name__}: {one_line(e).rstrip('.')}"
    for line in reversed("\n".join(map(str, seen)).splitlines()):  # a worker's own error comes as text
        if found := re.match(_OWN_ERROR, line.strip()):
            return found[0].rstrip(".")
    return "all of them were lost"
