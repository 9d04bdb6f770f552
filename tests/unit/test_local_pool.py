"""The local runner in several processes: same bytes, processes that die, a driver that dies, and what begins
when."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diffadapt.core.artifact import Receipt, Rows, Shard
from diffadapt.core.errors import ResourceError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import FitJob, WorkContext
from diffadapt.run.drive import drive
from diffadapt.run.executor import failed
from diffadapt.run.local_pool import ATTEMPTS, LocalPool, _Book, _Fixed
from diffadapt.run.progress import Progress
from diffadapt.run.runner import ExecutionConfig
from tests.unit.corekit import Double, Numbers, Shift, Total, Toy, contents, run_toy

CONFIG = ExecutionConfig(device="cpu", trackers=())


@dataclass(frozen=True)
class Deadly(Numbers):
    """Ends its process at shard 1, ``deaths`` times; ``place``: a folder that counts them and every start."""

    kind: ClassVar[str] = "numbers"
    place: str = ""
    deaths: int = 0

    def identity(self) -> dict[str, Any]:
        return Numbers.identity(self)

    def open(self, context: WorkContext) -> Any:
        return _Deadly(self, super().open(context))


class _Deadly:
    def __init__(self, stage: Deadly, worker: Any):
        self.stage, self.worker = stage, worker

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        place = Path(self.stage.place)
        place.joinpath(f"{shard.key}-{time.monotonic_ns()}-{os.getpid()}").touch()
        if shard.key == "s001" and len(list(place.glob("s001-*"))) <= self.stage.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.worker.run(shard, inputs)


@dataclass(frozen=True)
class Meeting(Total):
    """A fit that ends only when the stage :class:`Waiting` has begun."""

    place: str = ""

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def fit(self, job: FitJob) -> dict[str, Any]:
        Path(self.place, "fit").touch()
        Path(self.place, f"worker-{os.getpid()}").touch()
        assert _appears(Path(self.place, "shard")), "the fit ran alone"
        return super().fit(job)


@dataclass(frozen=True)
class Waiting(Double):
    """A stage whose work ends only when the fit has begun."""

    place: str = ""

    def identity(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def open(self, context: WorkContext) -> Any:
        return _Waiting(self, super().open(context))


class _Waiting:
    def __init__(self, stage: Waiting, worker: Any):
        self.stage, self.worker = stage, worker

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        Path(self.stage.place, f"worker-{os.getpid()}").touch()
        Path(self.stage.place, "shard").touch()
        assert _appears(Path(self.stage.place, "fit")), "the fit waits for the stage, which it does not need"
        return self.worker.run(shard, inputs)


def _appears(path: Path) -> bool:
    end = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@dataclass(frozen=True)
class Endless(Numbers):
    """Says which process it has, and stays."""

    place: str = ""

    def open(self, context: WorkContext) -> Any:
        Path(self.place, "pid.part").write_text(str(os.getpid()))
        Path(self.place, "pid.part").rename(Path(self.place, "pid"))
        time.sleep(60)


@dataclass(frozen=True)
class Toys(Toy):
    """Numbers alone."""

    def pipeline(self) -> Pipeline:
        return Pipeline((Node("numbers", self.numbers),))


@dataclass(frozen=True)
class Beside(Toy):
    """A fit of the numbers, and a stage over them; each ends only when the other has begun."""

    place: str = ""

    def pipeline(self) -> Pipeline:
        return Pipeline((
            Node("numbers", self.numbers),
            Node("total", Meeting(place=self.place), ("numbers",)),
            Node("double", Waiting(place=self.place), ("numbers",)),
            Node("shift", Shift(), ("double", "total")),
        ))  # fmt: skip


def go(root: Path, recipe: Any, workers: int) -> Any:
    return drive(
        "toy",
        recipe,
        recipe.pipeline(),
        Root(str(root)),
        lambda: LocalPool(replace(CONFIG, actors=workers), workers),
        progress=Progress({}, stream=io.StringIO()),
    )


@pytest.mark.slow
def test_a_fit_begins_beside_the_stages_that_do_not_need_it(tmp_path: Path) -> None:
    """One shard, so that a runner of waves would do the whole chain before the fit, or the fit before it."""
    run = go(tmp_path / "two", Beside(Numbers(shards=1), place=str(tmp_path)), workers=2)
    assert run.status()["state"] == "finished"
    pids = {p.name for p in tmp_path.glob("worker-*")}
    assert len(pids) == 2 and f"worker-{os.getpid()}" not in pids
    for path in (tmp_path / "shard", tmp_path / "fit"):
        path.touch()  # nobody has to wait for the other
    run_toy(tmp_path / "one", Beside(Numbers(shards=1), place=str(tmp_path)))
    assert made(tmp_path / "two") == made(tmp_path / "one")


def test_a_process_that_dies_costs_its_open_shard(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    only = Deadly(shards=3, place=str(place), deaths=1)
    go(tmp_path / "root", Toys(only), workers=1)
    starts = [p.name for p in place.iterdir()]
    assert sorted(s[:4] for s in starts) == ["s000", "s001", "s001", "s002"]
    assert len({s.rpartition("-")[2] for s in starts}) == 2, "the one that died was followed"
    run_toy(tmp_path / "one", Toys(Numbers(shards=3)))
    assert made(tmp_path / "root") == made(tmp_path / "one")


def made(root: Path) -> dict[str, bytes]:
    return {n: b for n, b in contents(root / "store").items() if n.endswith((".parquet", "total.json"))}


def task(digest: str) -> Task:
    return Task("node", Shard(f"key-{digest}", {}, (), 1), digest, digest, ())


def test_what_ends_every_process_is_given_up_and_a_fit_that_gets_on_is_not() -> None:
    receipts: list[Receipt] = []
    chain, fit = Chain((task("a"), task("b"), task("c"))), task("f")
    book = _Book(_Fixed([chain], [fit]), receipts.append, lambda *told: None)
    assert [book.next(), book.next(), book.next()] == [fit, chain, None], "more waits for a fit"
    book.hear("receipt", [replace(failed(task("a"), ""), status="made")])
    for _ in range(ATTEMPTS - 1):
        book.lost(chain)
        assert book.next() == Chain(chain.tasks[1:]), "what was made is not made again"
    book.lost(chain)
    assert book.next() is None and [r.digest for r in receipts] == ["a", "b"]
    assert "ended 3 times while it made node key-b" in receipts[-1].error
    for step in range(1, 2 * ATTEMPTS):
        book.hear("progress", ["node", step, 100, {}])
        book.lost(fit)
        assert book.next() == fit, "it came further each time"
    for again in (fit, None):
        book.lost(fit)
        assert book.next() == again
    assert receipts[-1].digest == "f"


def test_a_process_that_cannot_begin_ends_the_run_with_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match="ended before it could work .exit status 1.*actors 1"):
        go(tmp_path, Toys(Numbers(shards=1)), workers=1)


def _refuse() -> None:
    raise ImportError("no module named elsewhere")


@dataclass(frozen=True)
class Elsewhere(Numbers):
    """A stage that another process cannot read."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def test_a_stage_that_another_process_cannot_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot take up.*ImportError: no module named elsewhere.*local"):
        go(tmp_path, Toys(Elsewhere(shards=1)), workers=1)


SCRIPT = """
import sys
from pathlib import Path
from tests.unit.test_local_pool import Endless, Toys, go
go(Path(sys.argv[1]), Toys(Endless(place=sys.argv[1])), workers=1)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_process_does_not_outlive_the_driver(tmp_path: Path, number: int) -> None:
    driver = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        assert _appears(tmp_path / "pid")
        worker = int((tmp_path / "pid").read_text())
        os.kill(driver.pid, number)
        driver.wait(20)
        end = time.monotonic() + 20
        while _runs(worker):
            assert time.monotonic() < end, "the worker process goes on without its driver"
            time.sleep(0.02)
    finally:
        driver.kill()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
