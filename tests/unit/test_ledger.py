"""The ledger: entries arrive in time, damage and concurrency cost entries and never a run, many files become
one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from diffadapt.core import ledger
from diffadapt.core.artifact import Receipt
from diffadapt.core.errors import StoreError
from diffadapt.core.ledger import Ledger, Measured, by_digest, merge, read
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from tests.unit.corekit import PlainRunner, Toy, contents, run_toy

ROOT = Path(__file__).resolve().parents[2]


def plan(tmp_path):
    return Toy().pipeline().plan(Store(str(tmp_path / "store")))["numbers"]


def receipt(digest: str = "d", status: str = "made", seconds: float = 2.0, **more) -> Receipt:
    return Receipt("numbers", "s000", digest, status, 4, seconds=seconds, device="cpu", **more)


def put(place: Store, *entries: Measured, age: float = 0.0) -> None:
    """A file of the ledger that is ``age`` seconds old."""
    name = f"{time.time_ns() - int(age * 1e9)}-1-{os.urandom(3).hex()}.jsonl"
    place.write_bytes(name, "".join(json.dumps(asdict(m)) + "\n" for m in entries).encode())


def entry(digest: str = "d", **more) -> Measured:
    return replace(Measured(digest, "numbers", "numbers", "f", 4, 2.0, "cpu", when=1.0), **more)


def test_a_run_leaves_what_its_shards_and_fits_took(tmp_path):
    run_toy(tmp_path)
    found = read(Root(str(tmp_path)).ledger)
    assert sorted(m.kind for m in found) == ["double"] * 3 + ["numbers"] * 3 + ["total"]
    assert all(m.seconds > 0 and m.device == "cpu" and m.devices == 1 and not m.resumed for m in found)
    assert {m.items for m in found if m.kind != "total"} == {4}
    files = contents(tmp_path / "ledger")
    run_toy(tmp_path)
    assert contents(tmp_path / "ledger") == files, "a run that makes nothing measures nothing"


@pytest.mark.parametrize("kind", ["local", "memory", "s3"])
def test_only_what_was_made_counts_and_the_newest_stays(tmp_path, request, kind):
    where = {"local": str(tmp_path / "a b ä"), "memory": f"memory://{tmp_path.name}/a b"}
    place = Store(where.get(kind) or f"{request.getfixturevalue('s3')}/{tmp_path.name}/a b/ledger")
    assert read(place) == []
    book = Ledger(place)
    book.add(plan(tmp_path), receipt("hit", "hit"))
    book.add(plan(tmp_path), receipt("failed", "failed"))
    book.flush()
    assert place.list("") == set()
    for seconds in (9.0, 1.0):
        book.add(plan(tmp_path), receipt("again", seconds=seconds))
        book.flush()
    book.add(plan(tmp_path), receipt("other", devices=2))
    book.flush()
    assert len(place.list("")) == 3
    found = by_digest(place)
    assert found["again"].seconds == 1.0 and found["other"].device_seconds == 4.0 and len(read(place)) == 2


def test_waiting_entries_arrive_without_another_receipt(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FLUSH_SECONDS", 0.05)
    place = Store(str(tmp_path / "ledger"))
    Ledger(place).add(plan(tmp_path), receipt())
    deadline = time.monotonic() + 10
    while not read(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [m.digest for m in read(place)] == ["d"]


def test_a_killed_process_loses_only_what_waits(tmp_path):
    code = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "platform")!r}]
from pathlib import Path
from diffadapt.core import ledger
from tests.unit.test_ledger import plan, receipt
ledger.FLUSH_SECONDS = 0.3
book = ledger.Ledger(ledger.Store({str(tmp_path / "ledger")!r}))
book.add(plan(Path({str(tmp_path)!r})), receipt("early"))
while not ledger.read(book.place):
    time.sleep(0.02)
ledger.FLUSH_SECONDS = 60
book.add(plan(Path({str(tmp_path)!r})), receipt("late"))
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set(by_digest(Store(str(tmp_path / "ledger")))) == {"early"}


def test_a_full_buffer_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FLUSH_ENTRIES", 3)
    book = Ledger(Store(str(tmp_path / "ledger")))
    for i in range(7):
        book.add(plan(tmp_path), receipt(str(i)))
    assert len(read(book.place)) == 6
    book.flush()
    assert len(read(book.place)) == 7 and len(book.place.list("")) == 3


def test_many_writers_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "FLUSH_ENTRIES", 7)
    place, numbers = Store(str(tmp_path / "ledger")), plan(tmp_path)
    one = Ledger(place)

    def work(k: int) -> None:
        mine = Ledger(place)
        for i in range(50):
            one.add(numbers, receipt(f"shared-{k}-{i}"))
            mine.add(numbers, receipt(f"own-{k}-{i}"))
        mine.flush()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    one.flush()
    assert len(by_digest(place)) == 400


def test_damage_costs_the_damaged_lines_alone(tmp_path):
    place = Store(str(tmp_path / "ledger"))
    good = json.dumps(asdict(entry("good")))
    later = json.dumps({**asdict(entry("later")), "a_field_of_tomorrow": 1})
    bad = [
        "{",
        "[]",
        "null",
        '"x"',
        '{"digest": "d"}',
        json.dumps({**asdict(entry()), "seconds": "long"}),
        json.dumps({**asdict(entry()), "seconds": -1}),
        '{"digest": "d", "seconds": NaN}',
        good[:40],
    ]
    place.write_bytes(f"{time.time_ns()}-1-aa.jsonl", "\n".join([bad[0], good, *bad, later]).encode())
    place.write_bytes(f"{time.time_ns()}-1-bb.jsonl", b"\xff\xfe\x00")
    place.write_bytes("notes.jsonl", good.encode())
    place.write_bytes(f"{time.time_ns()}-1-cc.jsonl.tmp-1-2", json.dumps(asdict(entry("torn"))).encode())
    assert {m.digest for m in read(place)} == {"good", "later"}


def test_entries_without_the_fields_of_today_are_read(tmp_path):
    place = Store(str(tmp_path / "ledger"))
    old = {k: v for k, v in asdict(entry()).items() if k not in ("samples", "resumed")}
    place.write_bytes(f"{time.time_ns()}-1-aa.jsonl", json.dumps(old).encode())
    assert read(place) == [entry()]


def test_a_ledger_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    real = Store.write_bytes

    def write(self, name, data):
        if name.endswith(".jsonl") and self.path.endswith("ledger"):
            raise StoreError("The disk is full.")
        real(self, name, data)

    monkeypatch.setattr(Store, "write_bytes", write)
    run, _ = run_toy(tmp_path)
    assert run.status()["state"] == "finished" and read(run.root.ledger) == []


def test_what_could_not_be_written_is_written_later(tmp_path, monkeypatch):
    book = Ledger(Store(str(tmp_path / "ledger")))
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_write", lambda *_: (_ for _ in ()).throw(StoreError("not now")))
        book.add(plan(tmp_path), receipt())
        book.flush()
    book.flush()
    assert [m.digest for m in read(book.place)] == ["d"]


def test_an_interrupt_leaves_what_was_measured(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, runner=PlainRunner(stop_after=4))
    assert len(read(Root(str(tmp_path)).ledger)) == 4
    run_toy(tmp_path)
    assert len(read(Root(str(tmp_path)).ledger)) == 7


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_many_old_files_become_one(tmp_path, request, kind):
    place = Store(
        f"{request.getfixturevalue('s3')}/{tmp_path.name} merge" if kind == "s3" else str(tmp_path / "ledger")
    )
    for i in range(30):
        put(place, entry(f"d{i}", when=i), entry("again", when=i, seconds=float(i)), age=7200)
    put(place, entry("young", when=99), entry("d3", when=50, seconds=5.0))
    before = {m.digest: m for m in read(place)}
    assert merge(place) == 30 and len(place.list("")) == 2
    assert (
        {m.digest: m for m in read(place)} == before
        and before["again"].seconds == 29
        and before["d3"].seconds == 5
    )
    assert merge(place) == 0


def test_few_or_young_files_stay(tmp_path):
    place = Store(str(tmp_path / "ledger"))
    for i in range(30):
        put(place, entry(f"d{i}"), age=0 if i else 7200)
    assert merge(place) == 0 and len(place.list("")) == 30


def test_a_merge_cut_short_loses_nothing(tmp_path, monkeypatch):
    place = Store(str(tmp_path / "ledger"))
    for i in range(25):
        put(place, entry(f"d{i}"), age=7200)
    before = by_digest(place)
    removed = []

    def remove(self, name):
        if len(removed) == 5:
            raise KeyboardInterrupt
        removed.append(name)
        os.unlink(self.join(name))

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            merge(place)
    assert by_digest(place) == before
    merge(place, older_than=-1)
    assert by_digest(place) == before and len(place.list("")) == 1


def test_a_file_that_goes_while_it_is_read_counts_as_absent(tmp_path, monkeypatch):
    place = Store(str(tmp_path / "ledger"))
    put(place, entry("stays"))
    real = Store.list
    monkeypatch.setattr(Store, "list", lambda self, folder: real(self, folder) | {"123-1-gone.jsonl"})
    assert [m.digest for m in read(place)] == ["stays"]


def test_a_fit_that_went_on_from_a_checkpoint_says_so(tmp_path):
    root = Root(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, runner=PlainRunner(stop_after=6))
    digest = Toy().pipeline().plan(root.store)["total"].shards[0].digest
    root.store.write_bytes(f".checkpoints/{digest}/step-000000001-0.pt", b"half a fit")
    run_toy(tmp_path)
    assert by_digest(root.ledger)[digest].resumed
