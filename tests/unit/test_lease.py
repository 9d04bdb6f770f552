"""Leases: one driver works, the other waits or takes over; and what killed writers leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffadapt.core import files, processes
from diffadapt.core.files import clear_scratch, is_leftover, is_temporary, scratch, temporary
from diffadapt.core.lease import Leases, alone
from diffadapt.core.processes import has_ended, owner
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from diffadapt.sweeps.verify import leftovers
from tests.unit.corekit import Toy, run_toy

PLATFORM = Path(files.__file__).parents[2]


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path) -> Store:
    url = {
        "local": lambda: str(tmp_path / "store"),
        "memory": lambda: f"memory://{tmp_path.name}",
        "s3": lambda: f"{request.getfixturevalue('s3')}/{tmp_path.name}",
    }[request.param]()
    return Store(url)


def test_one_has_it_and_gives_it_back(store):
    with Leases(store) as mine, Leases(store) as other:
        assert mine.take("fit") and mine.take("fit") and not other.take("fit")
        holder = other.holder("fit")
        assert holder is not None and holder.pid == os.getpid() and str(os.getpid()) in str(holder)
        assert other.take("fit.1") and other.take("another")
        mine.give_back("fit")
        assert other.holder("fit") is None and other.take("fit")
    assert Leases(store).holder("fit") is None and store.list(".leases") == set()


def test_of_many_at_once_one_gets_it(store):
    leases = [Leases(store) for _ in range(8)]
    taken: list[bool] = []
    barrier = threading.Barrier(8)

    def take(mine: Leases) -> None:
        barrier.wait()
        taken.append(mine.take("fit"))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]
    for mine in leases:
        mine.__exit__()


HOLD = """
import sys, time
sys.path.insert(0, {platform!r})
from diffadapt.core.lease import Leases
from diffadapt.core.store import Store
leases = Leases(Store({root!r}))
assert leases.take("fit")
print("held", flush=True)
time.sleep(600)
"""


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path):
    code = HOLD.format(platform=str(PLATFORM), root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with Leases(Store(str(tmp_path))) as mine:
        assert not mine.take("fit")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert mine.take("fit")
        assert Store(str(tmp_path)).list(".leases") == {"fit.2"}


def test_what_ended_processes_left_goes_with_the_next_run(tmp_path):
    """Of a fit that nobody asks for again, too: killed between its commit and giving the lease back."""
    here = owner().partition("-")[0]
    dead = {"owner": f"{here}-{2**22 + 5}-1", "host": "here", "pid": 2**22 + 5, "life": "once"}
    for place in ("store", "runs"):
        folder = tmp_path / place / ".leases"
        folder.mkdir(parents=True)
        (folder / "fit.2").write_text(json.dumps(dead))
        (folder / f"fit.1.tmp-{dead['owner']}-3e821cf6").write_text("half")
        (folder / "elsewhere.1").write_text(json.dumps({**dead, "owner": "f" * 12 + "-1-1"}))
    with Leases(Store(str(tmp_path / "store"))) as living:
        assert living.take("at work")
        run_toy(tmp_path, Toy())
        assert Store(str(tmp_path / "store")).list(".leases") == {"at work.1", "elsewhere.1"}
    assert [p.name for p in (tmp_path / "runs" / ".leases").iterdir()] == ["elsewhere.1"]
    root = Root(str(tmp_path))
    assert leftovers(root) == []
    os.utime(tmp_path / "store" / ".leases" / "elsewhere.1", (1, 1))
    assert [Path(p).name for p in leftovers(root)] == ["elsewhere.1"]
    assert root.store.list(".leases") == set()


def test_unfinished_files_of_ended_processes_go_with_the_next_run(tmp_path):
    run_toy(tmp_path, Toy())
    (fit,) = (tmp_path / "store").glob("total/*")
    (shards,) = (tmp_path / "store").glob("double/*")
    (run,) = (tmp_path / "runs").glob("toy-*")
    dead = f"x.json.tmp-{owner().partition('-')[0]}-{2**22 + 5}-1-3e821cf6"
    folders = [tmp_path / "store", tmp_path / "runs", tmp_path / "ledger", fit, fit / "more", shards, run]
    folders.append(run / "figures")
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / dead).write_text("half")
    run_toy(tmp_path, Toy())
    assert [str(f.relative_to(tmp_path)) for f in folders if (f / dead).exists()] == []


def test_a_silent_one_elsewhere_is_taken_over_after_a_while(store):
    """A process of another machine cannot be asked for: only its silence tells."""
    there = {"owner": "f" * 12 + "-1-1", "host": "elsewhere", "pid": 7, "life": "once"}
    store.write_bytes(".leases/fit.3", json.dumps(there).encode())
    with Leases(store, silence=0.3) as mine:
        assert not mine.take("fit")
        store.write_bytes(".leases/fit.3", json.dumps({**there, "life": "twice"}).encode())
        time.sleep(0.4)
        assert not mine.take("fit")  # it gave a sign of life meanwhile
        time.sleep(0.4)
        assert mine.take("fit") and store.list(".leases") == {"fit.4"}


def test_the_other_waits_for_the_result(store):
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with alone(store, "run", "The run toy", said.append):
            order.append("second")

    with alone(store, "run", "The run toy", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.02)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and len(said) == 1
    assert said[0].startswith("The run toy: process ") and "waiting" in said[0]


def test_signs_of_life_change_the_file(store):
    with Leases(store, beat=0.05) as mine:
        assert mine.take("fit")
        before = mine.holder("fit")
        while mine.holder("fit") == before:
            time.sleep(0.02)


def test_owners(monkeypatch):
    mine = owner()
    assert not has_ended(mine) and not has_ended("") and not has_ended("f" * 12 + "-1-1")
    here, pid, start = mine.split("-")
    assert has_ended(f"{here}-{2**22 + 5}-1")
    if sys.platform == "linux":  # the same number, another process
        assert has_ended(f"{here}-{pid}-{int(start) + 1}")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    name = f"{here}-{child.pid}-{processes._started(child.pid)}"
    while not has_ended(name):  # a zombie has ended
        time.sleep(0.01)
    child.wait()


def test_leftovers_are_those_of_ended_writers():
    mine = temporary("/a/b.json")
    assert is_temporary(mine) and not is_leftover(mine, 0.0 + time.time())
    dead = mine.replace(owner(), f"{owner().partition('-')[0]}-{2**22 + 5}-1")
    assert is_leftover(dead, time.time())
    old = "/a/config.json.tmp-3821-0f3c9a1b"
    assert is_temporary(old) and is_leftover(old, 1.0) and not is_leftover(old, time.time())
    assert not is_temporary("/a/x.tmp-note.parquet")


def test_scratch_folders_of_killed_processes_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch("fit") as folder:
        Path(folder, "x").write_bytes(b"123")
        assert clear_scratch() == [] and Path(folder).exists()
        dead = folder.replace(owner(), f"{owner().partition('-')[0]}-{2**22 + 5}-1")
        Path(dead).mkdir()
        Path(dead, "model").write_bytes(b"12345")
        (tmp_path / "diffadapt-fit-somebody").mkdir()  # of an earlier version, young: perhaps at work
        (tmp_path / "diffadapt-fit-long").mkdir()
        os.utime(tmp_path / "diffadapt-fit-long", (1, 1))
        (tmp_path / "diffadapt-others").mkdir()
        os.utime(tmp_path / "diffadapt-others", (1, 1))
        assert {p for p, _ in clear_scratch(dry_run=True)} == {dead, str(tmp_path / "diffadapt-fit-long")}
        assert dict(clear_scratch())[dead] == 5 and not Path(dead).exists() and Path(folder).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diffadapt-fit-somebody", "diffadapt-others"]
