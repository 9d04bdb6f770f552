"""Plans of very many shards: digests are what they were before they were made fast, and the
work grows as the shards do."""

from __future__ import annotations

import cProfile
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.identity import canonical_json
from diffadapt.core.leniency import lenient
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.plan import summarise
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.stage import NodePlan, PlannedShard
from diffadapt.core.store import Store
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.run import quarantine
from diffadapt.run.quarantine import Quarantine
from diffadapt.stages.synthesize import Synthesize
from tests.unit.corekit import Double, Numbers, Total, Toy, allowing, run_toy

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-0.0, 2.0**53, 1e300])
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


def slow_plain(value: Any) -> Any:
    """Numbers of a canonical value, as they were defined when the first stores were written."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {k: slow_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [slow_plain(v) for v in value]
    return value


@given(VALUES)
def test_canonical_json_is_what_it_was(value):
    assert canonical_json(value) == json.dumps(
        slow_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def grid(images_per_class: int, store: Store) -> dict[str, NodePlan]:
    config = SynthConfig(
        images_per_class=images_per_class,
        images_per_shard=1,
        classes_per_shard=64,
    )
    nodes = (
        Node("synth", Synthesize(config, 1000)),
        Node("aligned", Double(), ("synth",)),
        Node("tuned", Total(), ("aligned",)),
    )
    with lenient():  # no weights are at hand
        return Pipeline(nodes).plan(store)


def work(images_per_class: int, store: Store) -> None:
    """From nothing to the first wave."""
    plans = grid(images_per_class, store)
    done = finished(plans, store)
    wave = next_wave(plans, done)
    assert (
        len(wave.chains) == 16 * images_per_class
        and all(len(c.tasks) == 2 for c in wave.chains)
        and not wave.fits
    )


def calls(images: int, store: Store) -> int:
    """Python and C functions that :func:`work` calls: unlike seconds, the same on a busy machine."""
    profile = cProfile.Profile()
    profile.runcall(work, images, store)
    return sum(entry.callcount for entry in profile.getstats())


def test_ten_times_more_shards_take_ten_times_more_work(tmp_path):
    store = Store(str(tmp_path))
    work(5, store)
    assert calls(200, store) < 12 * calls(20, store)  # quadratic work would take 100 times as much


def test_a_full_store_leaves_only_the_fit(tmp_path):
    store = Store(str(tmp_path))
    plans = grid(40, store)
    for name in ("synth", "aligned"):
        for p in plans[name].shards:
            file = tmp_path / (p.path or "")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    summary = summarise(plans, store)
    assert (summary.shards, summary.missing) == (1281, 1)
    wave = next_wave(plans, finished(plans, store))
    assert not wave.chains and len(wave.fits) == 1 and len(wave.fits[0].inputs) == 640


def test_inputs_keep_the_names_of_their_own_plan(tmp_path):
    """Plans worked on together give a node another key; its shards' inputs go by the names that the stage
    knows."""
    plans = Pipeline((Node("numbers", Numbers(shards=2)), Node("double", Double(), ("numbers",)))).plan(
        Store(str(tmp_path))
    )
    renamed = {
        "numbers@1": replace(plans["numbers"], name="numbers@1"),
        "double@1": replace(plans["double"], name="double@1"),
    }
    wave = next_wave(renamed, set())
    files = [f for c in wave.chains for t in c.tasks for f in t.inputs]
    assert [(f.node, f.plan) for f in files] == [("numbers", "numbers@1")] * 2


@pytest.mark.parametrize("fans", [1, 2])
def test_a_shard_that_waits_for_two_is_left_for_the_next_wave(tmp_path, fans):
    plans = Pipeline((Node("a", Numbers(shards=1)), Node("b", Numbers(shards=1, offset=1.0)))).plan(
        Store(str(tmp_path))
    )
    parents = [plans[n].shards[0] for n in ("a", "b")]
    shard = Shard("both", {}, tuple(Input(n, p.digest) for n, p in zip("ab", parents, strict=True))[:fans], 4)
    joined = replace(
        plans["a"],
        name="c",
        stage=Double(),
        inputs=("a", "b"),
        shards=(PlannedShard(shard, "d" * 16, "double/x.parquet"),),
    )
    wave = next_wave({**plans, "c": joined}, set())
    assert [len(c.tasks) for c in wave.chains] == ([2, 1] if fans == 1 else [1, 1])


def test_the_number_of_items_is_summed_once(tmp_path):
    plan = grid(20, Store(str(tmp_path)))["synth"]
    assert plan.items == 20_000 and "items" in vars(plan)
    assert replace(plan, shards=plan.shards[:1]).items == 64


@pytest.fixture
def with_failures(tmp_path) -> tuple[Path, dict[str, NodePlan], set[str]]:
    """A finished run of six shards in which one item of the second was set apart: its root, plans and
    digests."""
    (tmp_path / "broken").write_text("n/0/s001-2")
    recipe = allowing(Toy(numbers=Numbers(shards=6, broken=str(tmp_path / "broken"))), 0.5)
    run_toy(tmp_path / "root", recipe)
    store = Store(str(tmp_path / "root" / "store"))
    plans = recipe.pipeline().plan(store)
    return tmp_path / "root", plans, finished(plans, store)


def recalled(
    root: Path, plans: Mapping[str, NodePlan], done: set[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict, list[str]]:
    """What a resumed run knows to be set apart, and the shards whose footers it read for that."""
    read: list[str] = []
    store, header = Store(str(root / "store")), Store.header
    monkeypatch.setattr(Store, "header", lambda self, name: read.append(name) or header(self, name))
    found = Quarantine(plans, store, 0.5, Store(str(root / "ledger")))
    assert not found.recall(done)
    return found.by_node(), read


def test_of_very_many_finished_shards_only_those_with_failures_are_opened(with_failures, monkeypatch):
    every, read = recalled(*with_failures, monkeypatch)
    assert len(read) == 12 and [f.key for f in every["numbers"]] == [f.key for f in every["double"]] == [
        "n/0/s001-2"
    ]
    monkeypatch.setattr(quarantine, "MANY", 12)
    known, read = recalled(*with_failures, monkeypatch)
    assert known == every and len(read) == 2 and all("s001" in name for name in read)


def test_without_a_ledger_all_are_opened(with_failures, monkeypatch):
    monkeypatch.setattr(quarantine, "MANY", 12)
    root, plans, done = with_failures
    for file in (
        root / "ledger"
    ).iterdir():  # one entry of an earlier version, which did not say; the others lost
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps({k: v for k, v in m.items() if k != "failures"}) + "\n" for m in lines[:3])
        )
    known, read = recalled(root, plans, done, monkeypatch)
    assert len(read) == 12 and [f.key for f in known["numbers"]] == ["n/0/s001-2"]


def test_requests_to_a_remote_store_overlap(monkeypatch):
    store = Store("memory://overlap")
    for name in ("a/1.parquet", "a/2.parquet", "b/3.parquet"):
        store.write_bytes(name, b"x")
    meet = threading.Barrier(2, timeout=10)  # breaks when one request waits for the other's end
    plain_list, plain_exists = Store.list, Store.exists
    monkeypatch.setattr(Store, "list", lambda self, folder: meet.wait() >= 0 and plain_list(self, folder))
    monkeypatch.setattr(Store, "exists", lambda self, name: meet.wait() >= 0 and plain_exists(self, name))
    assert store.lists({"a", "b"}) == {"a": {"1.parquet", "2.parquet"}, "b": {"3.parquet"}}
    assert store.existing(["b/4.parquet", "a/2.parquet"]) == ["a/2.parquet"]
