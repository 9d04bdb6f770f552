"""Waves and chains: what may start, what follows without waiting, what is made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.pipeline import Node, Pipeline, ancestors
from diffadapt.core.plan import summarise
from diffadapt.core.schedule import Flow, finished, locate, next_wave
from diffadapt.core.stage import NodePlan, Stage
from diffadapt.core.store import Store
from tests.unit.corekit import Double, Numbers, PlainRunner, Shift, Total, contents, receipts_of


@dataclass(frozen=True)
class Gather(Double):
    """One shard that reads all shards of its input, as Tent's stream does."""

    kind: ClassVar[str] = "gather"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        (node,) = inputs.values()
        return [Shard("stream", {}, tuple(Input(node.name, p.digest) for p in node.shards), node.items)]


@dataclass(frozen=True)
class Fan(Double):
    """``width`` shards for each shard of its input, as images of one prompt table are."""

    kind: ClassVar[str] = "fan"
    width: int = 3

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        (node,) = inputs.values()
        return [
            Shard(f"{p.shard.key}-{i}", {"part": i}, (Input(node.name, p.digest),), 1)
            for p in node.shards
            for i in range(self.width)
        ]


@dataclass(frozen=True)
class Read(Numbers):
    """Read, not made."""

    kind: ClassVar[str] = "read"
    stored: ClassVar[bool] = False


def planned(*nodes: Node) -> tuple[dict[str, NodePlan], Store]:
    store = Store("memory://schedule-empty")
    return Pipeline(nodes).plan(store), store


def names(wave) -> list[list[str]]:
    return [[f"{t.node}/{t.shard.key}" for t in c.tasks] for c in wave.chains]


def test_a_chain_carries_a_shard_through_all_that_needs_nothing_else():
    plans, _ = planned(
        Node("a", Numbers(2)),
        Node("b", Double(), ("a",)),
        Node("c", Double(3), ("b",)),
        Node("d", Double(5), ("a",)),
    )
    wave = next_wave(plans, set())
    assert names(wave) == [["a/s000", "b/s000", "d/s000", "c/s000"], ["a/s001", "b/s001", "d/s001", "c/s001"]]
    assert wave.fits == ()
    made = {p.digest for n in ("a", "b") for p in plans[n].shards}
    assert names(next_wave(plans, made)) == [["c/s000"], ["c/s001"], ["d/s000"], ["d/s001"]]


def test_shards_that_fan_out_are_spread_over_the_actors():
    """Images of one prompt table must not be one actor's alone; what fans out to a single missing shard stays
    in its chain."""
    plans, _ = planned(
        Node("a", Numbers(2)),
        Node("f", Fan(), ("a",)),
        Node("b", Double(), ("f",)),
        Node("c", Double(5), ("a",)),
    )
    first = next_wave(plans, set())
    assert names(first) == [["a/s000", "c/s000"], ["a/s001", "c/s001"]]
    made = {t.digest for chain in first.chains for t in chain.tasks}
    assert names(next_wave(plans, made)) == [
        [f"f/s00{i}-{j}", f"b/s00{i}-{j}"] for i in range(2) for j in range(3)
    ]
    all_but_one = {p.digest for p in plans["f"].shards} - {plans["f"].shards[4].digest}
    assert ["a/s001", "f/s001-1", "c/s001", "b/s001-1"] in names(next_wave(plans, all_but_one)), (
        "one that is missing spreads to nobody"
    )
    narrow, _ = planned(Node("a", Numbers(2)), Node("f", Fan(width=1), ("a",)), Node("b", Double(), ("f",)))
    assert names(next_wave(narrow, set())) == [[f"a/s00{i}", f"f/s00{i}-0", f"b/s00{i}-0"] for i in range(2)]


def test_every_task_comes_after_its_inputs_and_once():
    plans, _ = planned(
        Node("a", Numbers(3)),
        Node("b", Double(), ("a",)),
        Node("g", Gather(), ("b",)),
        Node("t", Total(), ("b",)),
        Node("e", Double(7), ("a", "t")),
    )
    done: set[str] = set()
    seen: list[str] = []
    waves = 0
    while wave := next_wave(plans, done):
        waves += 1
        for chain in wave.chains:
            ready = set(done)
            for task in chain.tasks:
                assert all(f.digest in ready for f in task.inputs)
                ready.add(task.digest)
                seen.append(task.digest)
        assert all(f.digest in done for t in wave.fits for f in t.inputs)
        done |= set(seen) | {t.digest for t in wave.fits}
        seen += [t.digest for t in wave.fits]
    assert len(seen) == len(set(seen)) == sum(len(p.shards) for p in plans.values())
    assert waves == 3  # numbers and doubles; the stream and the fit; what needs the fit


def test_a_stream_waits_for_all_its_shards_and_follows_the_last_one_that_is_missing():
    plans, _ = planned(Node("a", Numbers(3)), Node("g", Gather(), ("a",)))
    a = [p.digest for p in plans["a"].shards]
    assert names(next_wave(plans, set())) == [["a/s000"], ["a/s001"], ["a/s002"]]
    assert names(next_wave(plans, set(a[:2]))) == [["a/s002", "g/stream"]]
    assert names(next_wave(plans, set(a))) == [["g/stream"]]


def test_what_two_nodes_ask_for_is_made_once(tmp_path):
    nodes = (
        Node("a", Numbers(2)),
        Node("b", Double(), ("a",)),
        Node("same", Double(), ("a",)),
        Node("t", Total(), ("b",)),
        Node("t2", Total(), ("same",)),
        Node("c", Double(3), ("same",)),
    )
    store = Store(str(tmp_path))
    plans = Pipeline(nodes).plan(store)
    assert [p.digest for p in plans["b"].shards] == [p.digest for p in plans["same"].shards]
    summary = summarise(plans, store)
    receipts = receipts_of(Pipeline(nodes), store)
    assert [r.status for r in receipts] == ["made"] * 7 and len({r.digest for r in receipts}) == 7
    assert summary.missing == 7 and summarise(plans, store).missing == 0
    assert next_wave(plans, finished(plans, store)).chains == ()
    (task,) = [
        t
        for c in next_wave(plans, {p.digest for n in ("a", "b", "t") for p in plans[n].shards}).chains
        for t in c.tasks
        if t.shard.key == "s000"
    ]
    assert [f.node for f in task.inputs] == ["same"]


def test_virtual_nodes_count_as_finished():
    plans, store = planned(Node("a", Read(2)), Node("b", Double(), ("a",)))
    assert finished(plans, store) == {p.digest for p in plans["a"].shards}
    wave = next_wave(plans, finished(plans, store))
    assert names(wave) == [["b/s000"], ["b/s001"]] and wave.chains[0].tasks[0].inputs[0].path is None
    assert locate(plans)[plans["b"].shards[0].digest].path.startswith("double/")
    assert [n.name for n in summarise(plans, store).nodes] == ["b"]


def test_a_fit_is_finished_when_its_mark_is_there(tmp_path):
    store = Store(str(tmp_path))
    pipeline = Pipeline((Node("a", Numbers(1)), Node("t", Total(), ("a",))))
    plans = pipeline.plan(store)
    (fit,) = plans["t"].shards
    store.write_bytes(f"{fit.path}/total.json", b"1")
    assert fit.digest not in finished(plans, store)
    receipts_of(pipeline, store)
    assert fit.digest in finished(plans, store)


def test_the_graph_is_checked():
    with pytest.raises(AssertionError, match="two nodes"):
        Pipeline((Node("a", Numbers()), Node("a", Numbers())))
    with pytest.raises(AssertionError, match="later or nowhere"):
        Pipeline((Node("b", Double(), ("a",)), Node("a", Numbers())))
    nodes = (Node("a", Numbers()), Node("b", Double(), ("a",)), Node("c", Double(), ("b",)))
    assert ancestors(nodes, "c") == {"a", "b"} and ancestors(nodes, "a") == set()


def test_more_shards_of_a_family_share_its_folder_and_bytes(tmp_path):
    store = Store(str(tmp_path))
    first = receipts_of(Pipeline((Node("a", Numbers(2)), Node("b", Double(), ("a",)))), store)
    before = contents(tmp_path)
    more = receipts_of(Pipeline((Node("a", Numbers(5)), Node("b", Double(), ("a",)))), store)
    assert len(first) == 4 and len(more) == 6 and len(list((tmp_path / "numbers").iterdir())) == 1
    assert {k: v for k, v in contents(tmp_path).items() if k in before} == before


def test_order_does_not_change_a_byte(tmp_path):
    pipeline = Pipeline((Node("a", Numbers(4)), Node("b", Double(), ("a",)), Node("t", Total(), ("b",))))
    receipts_of(pipeline, Store(str(tmp_path / "x")))
    receipts_of(pipeline, Store(str(tmp_path / "y")), PlainRunner(backwards=True))
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_stages_without_work_of_their_own_say_so():
    with pytest.raises(NotImplementedError):
        Stage().plan({})


def test_a_flow_gives_a_fit_as_soon_as_its_own_inputs_are_there_and_everything_once():
    plans, _ = planned(
        Node("a", Numbers(2)),
        Node("slow", Double(), ("a",)),
        Node("fit", Total(), ("a",)),
        Node("after", Gather(), ("slow",)),
        Node("last", Shift(), ("slow", "fit")),
    )
    of = {f"{n}/{p.shard.key}": p.digest for n, plan in plans.items() for p in plan.shards}
    flow = Flow(plans, set())
    assert flow.fits() == 1
    assert names(flow.more()) == [["a/s000", "slow/s000"], ["a/s001", "slow/s001"]]
    flow.finish(of["a/s000"])
    assert not flow.more(), "the fit needs both"
    flow.finish(of["a/s001"])
    wave = flow.more()
    assert [t.node for t in wave.fits] == ["fit"] and not wave.chains, "slow is at work still"
    flow.finish(of["slow/s000"])
    assert not flow.more()
    flow.finish(of["fit/all"])
    assert names(flow.more()) == [["last/s000"]] and flow.fits() == 0
    flow.finish(of["slow/s001"])
    assert names(flow.more()) == [["after/stream"], ["last/s001"]]
    assert not flow.more()


def test_a_flow_does_not_give_what_was_given_up_nor_what_is_there():
    plans, _ = planned(Node("a", Numbers(3)), Node("b", Double(), ("a",)), Node("c", Gather(), ("b",)))
    a = [p.digest for p in plans["a"].shards]
    given_up = {}
    flow = Flow(plans, {a[0]}, given_up)
    assert sorted(names(flow.more())) == [["a/s001", "b/s001"], ["a/s002", "b/s002"], ["b/s000"]]
    given_up[plans["b"].shards[1].digest] = "it failed"
    for digest in (*a[1:], plans["b"].shards[0].digest, plans["b"].shards[2].digest):
        flow.finish(digest)
    assert not flow.more(), "the stream needs what was given up"
