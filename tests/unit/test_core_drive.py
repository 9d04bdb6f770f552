"""Driving a pipeline: hits, interruption, the failure rule, manifests, and what a run folder tells."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest

from diffadapt.core import manifest
from diffadapt.core.artifact import Receipt, Rows
from diffadapt.core.errors import StoreError, TrainingError
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.runs import Root
from diffadapt.run.heartbeat import SILENCE, Heartbeat
from diffadapt.run.state import state_of
from tests.unit.corekit import Numbers, PlainRunner, Shifted, Toy, allowing, contents, run_toy


def store_of(root) -> dict[str, bytes]:
    return contents(root / "store")


def test_the_second_run_makes_nothing(tmp_path):
    run, first = run_toy(tmp_path)
    before = store_of(tmp_path)
    again, second = run_toy(tmp_path)
    assert len(first.receipts) == 7 and second.receipts == [] and again.name == run.name
    assert store_of(tmp_path) == before
    assert run.status()["state"] == "finished" and [n["hits"] for n in run.status()["nodes"].values()] == [
        3,
        3,
        1,
    ]


@pytest.mark.parametrize("stop", [1, 2, 5, 6, 7])
def test_an_interrupted_run_resumed_equals_an_undisturbed_one(tmp_path, stop):
    run, _ = run_toy(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "cut", runner=PlainRunner(stop_after=stop))
    cut = Root(str(tmp_path / "cut")).run("last")
    assert cut.status()["state"] == "interrupted" and not cut.has("manifest.json")
    _, rest = run_toy(tmp_path / "cut")
    assert len([r for r in rest.receipts if r.status == "made"]) == 7 - stop
    assert store_of(tmp_path / "cut") == store_of(tmp_path / "whole")
    assert cut.read("manifest.json") == run.read("manifest.json")


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_remote_root_holds_the_same_bytes(tmp_path, request, kind, monkeypatch):
    """The last stage reads the fitted file, which has to be fetched from a remote store once a machine."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    place = f"{request.getfixturevalue('s3') if kind == 's3' else 'memory:/'}/{tmp_path.name}"
    local, _ = run_toy(tmp_path / "local", Shifted())
    with pytest.raises(KeyboardInterrupt):
        run_toy(place, Shifted(), PlainRunner(stop_after=4))
    remote, _ = run_toy(place, Shifted())
    assert remote.read("manifest.json") == local.read("manifest.json") and remote.name == local.name
    here, there = Root(str(tmp_path / "local")), Root(place)
    names = sorted(here.store.fs.find(here.store.path))
    for name in (n.removeprefix(here.store.path + "/") for n in names):
        assert there.store.read_bytes(name) == here.store.read_bytes(name)
    assert {f.removeprefix(there.store.path + "/") for f in there.store.fs.find(there.store.path)} == {
        n.removeprefix(here.store.path + "/") for n in names
    }
    (copy,) = LocalCache().entries()
    assert {p.name for p in copy.folder.iterdir()} >= {"total.json", "metrics.json"}
    assert there.run("last").name == remote.name


@pytest.fixture
def broken(tmp_path):
    file = tmp_path / "broken"

    def mark(*keys: str) -> Toy:
        file.write_text("\n".join(keys))
        return Toy(Numbers(shards=5, rows=4, broken=str(file)))

    return mark


def test_few_failures_are_listed_and_the_rest_goes_on(tmp_path, broken):
    run, _ = run_toy(tmp_path, broken("n/0/s001-2"))
    lines = [json.loads(line) for line in run.read("quarantine.jsonl").splitlines()]
    assert lines == [
        {"node": n, "key": "n/0/s001-2", "reason": "broken"} for n in ("double", "numbers", "total")
    ]
    nodes = run.manifest()["nodes"]
    assert all(nodes[n]["quarantined"] == [["n/0/s001-2", "broken"]] for n in nodes)
    again, _ = run_toy(tmp_path, broken())
    assert again.read("manifest.json") == run.read("manifest.json") and again.has("quarantine.jsonl")


def test_too_many_failures_stop_the_stage_and_mended_inputs_finish_it(tmp_path, broken):
    bad = ("n/0/s001-2", "n/0/s003-0")
    with pytest.raises(
        TrainingError, match="numbers quarantined 2 of 20 items, more than the allowed 5%.*n/0/s001-2: broken"
    ):
        run_toy(tmp_path, broken(*bad))
    run = Root(str(tmp_path)).run("last")
    assert run.status()["state"] == "failed" and "quarantined" in run.status()["error"]
    assert {json.loads(x)["key"] for x in run.read("quarantine.jsonl").splitlines()} == set(bad)
    left = [k for k in store_of(tmp_path) if k.endswith(".parquet")]
    assert left and not any("s001" in k or "s003" in k for k in left)
    run, _ = run_toy(tmp_path, broken())
    whole, _ = run_toy(tmp_path / "whole", Toy(Numbers(shards=5)))
    assert not run.has("quarantine.jsonl") and not run.has("errors.log") and run.status()["error"] == ""
    assert store_of(tmp_path) == store_of(tmp_path / "whole")


def test_more_may_be_allowed_and_a_stricter_rerun_retries(tmp_path, broken):
    bad = ("n/0/s001-2", "n/0/s003-0")
    run, _ = run_toy(tmp_path, allowing(broken(*bad), 0.2))
    assert len(run.manifest()["nodes"]["total"]["quarantined"]) == 2
    with pytest.raises(TrainingError, match="more than the allowed 5%"):
        run_toy(tmp_path, broken(*bad))
    run, runner = run_toy(tmp_path, broken())
    assert run.manifest()["nodes"]["total"]["quarantined"] == []
    run_toy(tmp_path / "whole", Toy(Numbers(shards=5)))
    assert store_of(tmp_path) == store_of(tmp_path / "whole")


def test_failures_of_an_interrupted_run_count_in_the_next(tmp_path, broken):
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, broken("n/0/s000-0"), PlainRunner(stop_after=4))
    with pytest.raises(TrainingError, match="2 of 20"):
        run_toy(tmp_path, broken("n/0/s000-0", "n/0/s004-0"))


def test_a_failed_shard_keeps_its_kind_and_the_others_their_work(tmp_path):
    class Failing(PlainRunner):
        def run_chains(self, chains, stages, store, on_receipt):
            super().run_chains(chains[:1], stages, store, on_receipt)
            task = chains[1].tasks[0]
            self._pass(
                Receipt(
                    task.node,
                    task.shard.key,
                    task.digest,
                    "failed",
                    0,
                    error="DataError: The folder is gone.",
                ),
                on_receipt,
            )

    from diffadapt.core.errors import DataError

    with pytest.raises(DataError, match="numbers: The folder is gone"):
        run_toy(tmp_path, runner=Failing())
    run = Root(str(tmp_path)).run("last")
    assert run.has("errors.log") and run.status()["state"] == "failed"
    _, rest = run_toy(tmp_path)
    assert len(rest.receipts) == 5 and not run.has("errors.log")


def test_a_bug_of_ours_is_told_apart_and_its_traceback_kept(tmp_path):
    class Buggy(Numbers):
        def open(self, context):
            raise ZeroDivisionError("oh")

    with pytest.raises(TrainingError, match="ZeroDivisionError.*not your input's fault.*errors.log"):
        run_toy(tmp_path, replace(Toy(), numbers=Buggy()))
    assert b"Traceback" in Root(str(tmp_path)).run("last").read("errors.log")


def test_shards_reported_but_not_there_are_missed(tmp_path):
    class Elsewhere(PlainRunner):
        def run_chains(self, chains, stages, store, on_receipt):
            for c in chains:
                for t in c.tasks:
                    on_receipt(Receipt(t.node, t.shard.key, t.digest, "made", 1))

    with pytest.raises(StoreError, match="6 shards were reported made.*same --root"):
        run_toy(tmp_path, runner=Elsewhere())


def test_a_full_store_is_reported_although_the_status_cannot_be_written(tmp_path, monkeypatch):
    from diffadapt.core import store as store_module

    real = os.fsync
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        return real(handle)

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(StoreError, match="full"):
        run_toy(tmp_path)
    monkeypatch.undo()
    run, _ = run_toy(tmp_path)
    run_toy(tmp_path / "whole")
    assert run.status()["state"] == "finished" and store_of(tmp_path) == {
        **store_of(tmp_path),
        **store_of(tmp_path / "whole"),
    }


def test_manifest_is_the_same_in_every_place_and_masks_credentials(tmp_path):
    one, _ = run_toy(tmp_path / "one")
    other, _ = run_toy(tmp_path / "a b" / "two", runner=PlainRunner(backwards=True))
    assert one.read("manifest.json") == other.read("manifest.json") and one.name == other.name
    assert manifest.scrub({"a": ["s3://k:s@b/x", 1], "b": "u?token=abc"}) == {
        "a": ["s3://***@b/x", 1],
        "b": "u?token=***",
    }
    found = manifest.versions()
    assert found["torch"] != "absent" and found["diffadapt"]


def test_manifests_of_other_formats_and_damaged_ones_are_refused(tmp_path):
    run, _ = run_toy(tmp_path)
    value = run.manifest()
    for data, words in (
        (json.dumps({**value, "format": 0}), "format 0, this version reads format 1"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
    ):
        run.write("manifest.json", data.encode())
        with pytest.raises(StoreError, match=words):
            run.manifest()


def test_run_names_and_prefixes(tmp_path):
    run, _ = run_toy(tmp_path, name="sda/toy")
    other, _ = run_toy(tmp_path, replace(Toy(), seed=1), name="sda/toy")
    root = Root(str(tmp_path))
    assert run.name.startswith("sda-toy-") and run.name != other.name
    assert root.names() == [other.name, run.name] and root.run("last").name == other.name
    assert root.run(run.name[:-2]).name == run.name and root.run(run.url).name == run.name
    with pytest.raises(StoreError, match="fits several"):
        root.run("sda-toy")
    with pytest.raises(StoreError, match="Did you mean 'sda-toy"):
        root.run("sdb-toy-" + run.name[-8:])


def test_states(tmp_path):
    here = {"state": "running", "updated": time.time(), "host": os.uname().nodename, "pid": os.getpid()}
    assert state_of(here) == "running"
    assert state_of({**here, "pid": 2**22 + 1}).startswith("interrupted")
    assert state_of({**here, "host": "elsewhere", "pid": 2**22 + 1}) == "running"
    assert state_of({**here, "host": "elsewhere", "updated": time.time() - SILENCE - 1}).startswith(
        "interrupted"
    )
    assert state_of({**here, "state": "finished"}) == "finished" and state_of({}) == "unknown"


def test_heartbeat_beats_while_the_work_is_silent():
    beats = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 2:
            raise StoreError("for a moment")

    with Heartbeat(beat, seconds=0.02):
        deadline = time.monotonic() + 5
        while len(beats) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    count = len(beats)
    time.sleep(0.1)
    assert count >= 4 and len(beats) == count


def test_rows_know_their_length():
    import pyarrow as pa

    assert len(Rows(pa.table({"key": ["a", "b"]}))) == 2
