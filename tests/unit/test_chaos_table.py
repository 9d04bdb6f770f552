"""The chaos test's own verdict: nothing but trials that were all made and ended well gives status 0."""

from __future__ import annotations

import random

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import damages, kills, outcome, places, twins
from tests.chaos.killing import kind_of
from tests.chaos.kills import Reference
from tests.chaos.outcome import GOOD, Outcome

FAULTS = ("served", "failed", "not run", "", "anything")


@pytest.fixture
def ends(monkeypatch, tmp_path) -> list[str]:
    """How the trials of :func:`run` will end, one after the other."""
    left: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    known = Reference({}, 1.0, {"shard": 3, "fit": 2}, {})
    monkeypatch.setattr(kills, "undisturbed", lambda machine, system, *commands: known)
    monkeypatch.setattr(twins, "undisturbed", lambda machine, system, *commands: known)
    monkeypatch.setattr(
        kills,
        "chain",
        lambda m, s, k, moments, r: [Outcome("kill", s.name, n, left.pop()) for n, _ in moments],
    )
    monkeypatch.setattr(twins, "twins", lambda m, pair, w, r: Outcome("twins", "local", pair, left.pop()))
    return left


def run(*more: str) -> int:
    words = ("--kills", "3", "--damages", "0", "--twins", "1", "--only", "local", "--jobs", "1")
    return chaos.main([*words, *more])


def test_all_well_is_status_0(ends, capsys):
    ends += ["equal", "equal", "equal", "together"]
    assert run() == 0 and "all well" in capsys.readouterr().out


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(4))
def test_one_fault_is_status_1(ends, capsys, fault, at):
    ends += ["equal"] * 4
    ends[at] = fault
    assert run() == 1
    out = capsys.readouterr().out
    assert "NOT all well" in out and f"**{fault}**" in out.partition("Faults:")[2]


def test_what_was_not_tried_is_no_success(ends, capsys):
    assert run("--minutes", "0") == 1
    assert "3 not run" in capsys.readouterr().out


def test_a_trial_that_raises_is_no_success(ends, capsys):
    assert run() == 1 and "IndexError" in capsys.readouterr().out  # there is no end to give


def test_too_few_outcomes_are_no_success():
    assert outcome.status([Outcome("kill", "local", "", "equal")], 2) == 1
    assert outcome.status([], 0) == 1
    assert not {*FAULTS} & GOOD.keys()


@pytest.mark.parametrize("number", [0, 1, 7, 33, 100])
def test_shares_add_up(number):
    assert sum(chaos.shared(number, chaos.SHARES).values()) == number
    assert sum(chaos.shared(number, dict(chaos.PAIRS)).values()) == number


def test_other_content_is_seen():
    wanted = {"runs/a/manifest.json": b"1", "store/k/x.parquet": b"2", "runs/a/status.json": b"3"}
    assert places.differences({**wanted, "runs/a/status.json": b"4", "ledger/1.jsonl": b""}, wanted) == []
    for name in ("runs/a/manifest.json", "store/k/x.parquet"):
        assert places.differences({**wanted, name: b"9"}, wanted) == [name]
        assert places.differences({k: v for k, v in wanted.items() if k != name}, wanted) == [name]
    assert places.differences({**wanted, "store/k/y.parquet": b""}, wanted) == ["store/k/y.parquet"]


@pytest.mark.parametrize("how", damages.HOWS)
def test_damage_damages(how):
    data = bytes(range(1, 200))
    bad = damages.damaged(data, how, random.Random(0))
    assert bad != data and len(bad) == len(data) or how == "cut"


def test_commits_are_known_by_their_paths():
    assert kind_of("root/store/k/f-1/s-2.parquet.tmp-6266a77b543f-1-2-3e821cf6") == "shard"
    assert kind_of("root/store/k/f-1/_SUCCESS") == "fit" and kind_of("lib/a.py") == ""
    assert kind_of("root/store/.leases/a.1") == "lease" and kind_of("root/runs/r/status.json") == "run"
    assert kind_of("chaos/001/store/.checkpoints/d/step-1.pt") == "checkpoint"
