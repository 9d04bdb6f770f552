"""Fits on Ray Train: equal to the local runner's, side by side, and resumed after a rank was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from tests.ray.harness import contents, run
from tests.ray.toy import Regress, Source, fit_pipeline, lines


@pytest.mark.slow
def test_fits_of_a_wave_run_side_by_side_with_the_local_runners_bytes(
    ray_runner: RayRunner, tmp_path: Path
) -> None:
    local = LocalRunner(ExecutionConfig(device="cpu"))
    local.prepare()
    log = tmp_path / "log"
    fits = [Regress(name=n, side_log=str(log), sleep=0.02) for n in "ab"]
    outcome = run(fit_pipeline(Source(), *fits, Regress(name="c", where="cpu")), tmp_path / "ray", ray_runner)
    assert not outcome.failed()
    run(fit_pipeline(Source(), *(Regress(name=n) for n in "abc")), tmp_path / "local", local)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len({pid for kind, *_, pid in lines(log) if kind == "step"}) == 2
    assert ray_runner._fits and ray_runner._fits.host is None, "a fit on one worker needs no Ray Train"
    assert {where for kind, where, *_ in lines(log) if kind == "place"} == {os.getcwd()}, (
        "relative paths of a recipe mean the same in a training worker"
    )
    assert {node for node, *_ in outcome.progress} == {"fit-0", "fit-1", "fit-2"}
    assert ("fit-0", 30, 30) in {news[:3] for news in outcome.progress}
    assert not any((tmp_path / "ray" / ".train").glob("*")) and not any(
        (tmp_path / "ray" / ".checkpoints").glob("*")
    )
    assert list(Path(f"{tmp_path}/ray-logs/fit-1").glob("events.*"))


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_resumes_from_the_checkpoint(tmp_path: Path) -> None:
    """Three fits on two workers: one undisturbed, one whose rank 1 is killed, one whose rank 1 fails
    alone."""
    log = tmp_path / "log"
    runner = RayRunner(ExecutionConfig(device="cpu", actors=1, train_workers=2))
    runner.prepare()
    pipeline = fit_pipeline(
        Source(shards=3),
        Regress(name="quiet"),
        Regress(name="killed", side_log=str(log), die_step=13, die_rank=1),
        Regress(name="failing", fail_rank=1),
    )
    try:
        outcome = run(pipeline, tmp_path / "store", runner)
    finally:
        runner.close()
    assert (tmp_path / "log.died").exists()
    assert ["resumed", "fit-1", "10"] in lines(log)
    quiet, killed = sorted((tmp_path / "store" / "toy-regress").glob("*/weights.txt"))
    assert quiet.read_bytes() == killed.read_bytes()
    # One rank that fails alone must not leave the others waiting for it.
    assert [r.error for r in outcome.failed()] == ["DataError: Rank 1 of fit-2 is told to fail."]
    assert {r.node for r in outcome.receipts if r.status == "made"} == {"source", "fit-0", "fit-1"}
