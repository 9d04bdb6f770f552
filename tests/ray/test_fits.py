"""Fits on Ray Train: equal to the local runner's, side by side, and resumed after a rank was killed."""

from __future__ import annotations

from pathlib import Path

from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig

from tests.ray.harness import contents, run
from tests.ray.toy import Regress, Source, fit_pipeline, lines


def test_fits_of_a_wave_run_side_by_side_with_the_local_runners_bytes(ray_runner: RayRunner, tmp_path: Path) -> None:
    local = LocalRunner(ExecutionConfig(device="cpu"))
    local.prepare()
    log = tmp_path / "log"
    fits = [Regress(name=n, side_log=str(log), sleep=0.02) for n in "ab"]
    outcome = run(fit_pipeline(Source(), *fits), tmp_path / "ray", ray_runner)
    assert not outcome.failed()
    run(fit_pipeline(Source(), Regress(name="a"), Regress(name="b")), tmp_path / "local", local)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len({pid for kind, *_, pid in lines(log) if kind == "step"}) == 2
    assert {node for node, *_ in outcome.progress} == {"fit-0", "fit-1"}
    assert ("fit-0", 30, 30) in {news[:3] for news in outcome.progress}
    assert not any((tmp_path / "ray" / ".train").glob("*")) and not any((tmp_path / "ray" / ".checkpoints").glob("*"))
    assert list(Path(f"{tmp_path}/ray-logs/fit-1").glob("events.*"))


def test_a_rank_killed_in_the_middle_resumes_from_the_checkpoint(tmp_path: Path) -> None:
    runner = RayRunner(ExecutionConfig(device="cpu", actors=1, train_workers=2))
    runner.prepare()
    try:
        log = tmp_path / "log"
        undisturbed = run(fit_pipeline(Source(), Regress()), tmp_path / "quiet", runner)
        killed = run(
            fit_pipeline(Source(), Regress(side_log=str(log), die_step=13, die_rank=1)), tmp_path / "killed", runner
        )
        failing = run(fit_pipeline(Source(), Regress(fail_rank=1)), tmp_path / "failing", runner)
    finally:
        runner.close()
    assert not undisturbed.failed() and not killed.failed()
    assert (tmp_path / "log.died").exists()
    assert ["resumed", "fit-0", "10"] in lines(log)
    assert contents(tmp_path / "killed") == contents(tmp_path / "quiet")
    # One rank that fails alone must not leave the others waiting for it.
    (failed,) = failing.failed()
    assert failed.error == "DataError: Rank 1 of fit-0 is told to fail."
