"""Canonical JSON, digests and item seeds: stable, sensitive to content only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffadapt.core.artifact import Input, Shard, family_digest, shard_digest
from diffadapt.core.identity import canonical_json, digest, item_seed

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_digests_are_pinned():
    """A change here makes every stored shard of every user unreachable."""
    assert (
        canonical_json({"b": [1, 2.5, None, True], "a": "é", "c": 2.0})
        == '{"a":"é","b":[1,2.5,null,true],"c":2}'
    )
    assert digest({"b": [1, 2.5, None, True], "a": "é", "c": 2.0}) == "a53083a84beb3935"
    assert digest("") == "12ae32cb1ec02d01"
    family = family_digest("synth", 1, {"config": {"guidance": 1.5}, "seed": 0}, ["b", "a"])
    assert family == "9bb594ffdbeb0408"
    assert (
        shard_digest(family, Shard("k", {"start": 0, "stop": 4}, (Input("x", "abc"),), 4))
        == "2670f1a4bc5481de"
    )
    assert item_seed(0, "synthetic", "synthetic/0/c0001/i000000", "synth") == 9043963290982719149


@given(PLAIN)
def test_canonical_json_is_json_and_does_not_depend_on_order(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert canonical_json({"x": value, "y": 1}) == canonical_json({"y": 1, "x": value})


@given(st.dictionaries(st.text(), st.integers(), min_size=1), st.integers())
def test_another_value_is_another_digest(value, other):
    key = next(iter(value))
    changed = {**value, key: other}
    assert (digest(changed) == digest(value)) == (changed == value)


def test_equal_numbers_have_one_name_and_true_is_not_one():
    assert digest({"guidance": 1}) == digest({"guidance": 1.0})
    assert digest(True) != digest(1) and digest("1") != digest(1) and digest(None) != digest("")
    assert canonical_json(2.0**60) == "1.152921504606847e+18"


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_nan_has_no_digest(value):
    with pytest.raises(ValueError):
        digest(value)


def test_the_order_of_inputs_counts_in_a_shard_and_their_names_do_not():
    def of(*inputs: Input) -> str:
        return shard_digest("f", Shard("k", {}, inputs))

    a, b = Input("x", "1"), Input("y", "2")
    assert of(a, b) != of(b, a)
    assert of(a) == of(Input("other", "1"))
    assert family_digest("k", 1, {}, ["a", "b"]) == family_digest("k", 1, {}, ["b", "a"])
    assert (
        len(
            {
                family_digest("k", 1, {}, []),
                family_digest("k", 2, {}, []),
                family_digest("l", 1, {}, []),
                family_digest("k", 1, {"a": 1}, []),
            }
        )
        == 4
    )


@given(st.integers(0, 2**31), st.text(), st.text(), st.text())
def test_item_seeds_fit_63_bits_and_depend_on_every_part(run_seed, dataset, key, stage):
    seed = item_seed(run_seed, dataset, key, stage)
    assert 0 <= seed < 2**63
    others = {
        item_seed(run_seed + 1, dataset, key, stage),
        item_seed(run_seed, dataset + "x", key, stage),
        item_seed(run_seed, dataset, key + "x", stage),
        item_seed(run_seed, dataset, key, stage + "x"),
    }
    assert seed not in others and len(others) == 4


def test_ten_thousand_items_have_ten_thousand_seeds():
    assert (
        len({item_seed(0, "synthetic", f"c{c}/i{i}", "synth") for c in range(100) for i in range(100)})
        == 10_000
    )
