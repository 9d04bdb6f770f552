"""Plans of very many shards: digests and redaction are what they were before they were made fast, and the work grows as the shards do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffadapt.core import store as stores
from diffadapt.core.artifact import Input, Shard
from diffadapt.core.identity import canonical_json
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.plan import summarise
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.stage import NodePlan, PlannedShard
from diffadapt.core.store import Store, redact
from diffadapt.stages.synthesize import Synthesize
from diffadapt.synth.config import SynthConfig
from tests.unit.corekit import Double, Numbers, Total

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 2.0**53, 1e300]) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PIECES = st.sampled_from(["s3://", "user:pass@", "host/", "?token=", "secret_key=", "abc", "=", "@", " ", "hf_" + "a" * 20, "ghp_" + "b" * 24, "AKIA" + "C" * 16, "ASIA" + "D" * 16, "AIza" + "e" * 35, "synth/digits-dit-01/i0.parquet"])


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
    assert canonical_json(value) == json.dumps(slow_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@given(st.lists(PIECES | st.text(max_size=5), max_size=8))
def test_redaction_skips_only_what_holds_no_secret(pieces):
    text = "".join(pieces)
    assert redact(text) == stores._TOKEN.sub("***", stores._PARAMETER.sub(r"\1***", stores._LOGIN.sub(r"\1***@", text)))


def grid(images_per_class: int, store: Store) -> dict[str, NodePlan]:
    config = SynthConfig(weights="embedded:digits-dit", images_per_class=images_per_class, images_per_shard=1, classes_per_shard=64)
    nodes = (Node("synth", Synthesize(config, 1000)), Node("aligned", Double(), ("synth",)), Node("tuned", Total(), ("aligned",)))
    return Pipeline(nodes).plan(store)


def work(images_per_class: int, store: Store) -> float:
    """CPU seconds from nothing to the first wave."""
    start = time.process_time()
    plans = grid(images_per_class, store)
    done = finished(plans, store)
    wave = next_wave(plans, done)
    assert len(wave.chains) == 16 * images_per_class and all(len(c.tasks) == 2 for c in wave.chains) and not wave.fits
    return time.process_time() - start


def test_ten_thousand_shards_are_planned_in_a_moment_and_ten_times_more_take_ten_times_longer(tmp_path):
    store = Store(str(tmp_path))
    work(10, store)
    small, large = min(work(50, store) for _ in range(3)), work(500, store)
    assert large < 6.0  # 16,000 shards, half a million images; 0.5 s measured
    assert large < 30 * small  # quadratic work would take 100 times longer


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
    """Plans worked on together give a node another key; its shards' inputs go by the names that the stage knows."""
    plans = Pipeline((Node("numbers", Numbers(shards=2)), Node("double", Double(), ("numbers",)))).plan(Store(str(tmp_path)))
    renamed = {"numbers@1": replace(plans["numbers"], name="numbers@1"), "double@1": replace(plans["double"], name="double@1")}
    wave = next_wave(renamed, set())
    files = [f for c in wave.chains for t in c.tasks for f in t.inputs]
    assert [(f.node, f.plan) for f in files] == [("numbers", "numbers@1")] * 2


@pytest.mark.parametrize("fans", [1, 2])
def test_a_shard_that_waits_for_two_is_left_for_the_next_wave(tmp_path, fans):
    plans = Pipeline((Node("a", Numbers(shards=1)), Node("b", Numbers(shards=1, offset=1.0)))).plan(Store(str(tmp_path)))
    parents = [plans[n].shards[0] for n in ("a", "b")]
    shard = Shard("both", {}, tuple(Input(n, p.digest) for n, p in zip("ab", parents, strict=True))[:fans], 4)
    joined = replace(plans["a"], name="c", stage=Double(), inputs=("a", "b"), shards=(PlannedShard(shard, "d" * 16, "double/x.parquet"),))
    wave = next_wave({**plans, "c": joined}, set())
    assert [len(c.tasks) for c in wave.chains] == ([2, 1] if fans == 1 else [1, 1])


def test_the_number_of_items_is_summed_once(tmp_path):
    plan = grid(20, Store(str(tmp_path)))["synth"]
    assert plan.items == 20_000 and "items" in vars(plan)
    assert replace(plan, shards=plan.shards[:1]).items == 64
