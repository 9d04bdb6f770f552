"""Sampling and training that diverge, and runs that are interrupted: what was finished stays, and the rerun
finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffadapt.train.checkpoints import Checkpoints
from tests.cli.badinput import Place, diffadapt, network_folder
from tests.tiny import ROOT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_nan_while_aligning_stops_early_and_keeps_earlier_shards(place: Place) -> None:
    diverging = network_folder(place.folder / "unet", "digits-unet", lambda v: v.float() * 1e30)
    result = place.run("--align.weights", diverging, "--target.data.block", "4")
    result.sentence(
        "The stage projected quarantined 4 of 30 items",
        "NaN or infinity",
        "use precision fp32 or a smaller guidance scale",
    )
    kept = {p: p.read_bytes() for kind in ("corrupted", "logits") for p in place.stored(kind)}
    assert kept and not place.stored("aligned")
    good = place.run("--target.data.block", "4")
    assert good.status == 0, good.text
    assert {p: p.read_bytes() for p in kept} == kept
    assert "from the store" in good.error


def test_nan_while_synthesising(place: Place) -> None:
    diverging = network_folder(place.folder / "dit", "digits-dit", lambda v: v.float() * 1e30)
    words = ("--synth.weights", diverging, "--classifier-fit.epochs", "1", "--target.corruptions", "contrast")
    place.run_whole(*words, methods="sda").sentence(
        "The stage synth quarantined", "NaN or infinity", "check the weights"
    )
    assert place.stored("aligned"), "the projections were finished before"
    assert not place.stored("synth")


def test_nan_in_training_keeps_the_last_good_checkpoint(place: Place) -> None:
    words = (
        "--classifier-fit.lr",
        "1e30",
        "--classifier-fit.checkpoint-every",
        "1",
        "--target.corruptions",
        "contrast",
    )
    message = place.run_whole(*words).sentence(
        "Training stopped at step", "because the", "lower the learning rate"
    )
    (folder,) = (place.root / "store" / ".checkpoints").iterdir()
    steps = Checkpoints(str(folder)).steps()
    assert steps and f"the checkpoint of step {steps[-1]} is kept" in message
    state = Checkpoints(str(folder)).latest()
    assert state is not None and all(
        v.isfinite().all() for v in state["module"].values() if v.is_floating_point()
    )
    assert len(place.stored("corrupted")) == 2
    again = place.run_whole(*words)
    again.sentence("Training stopped at step", f"the checkpoint of step {steps[-1]} is kept")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_130_and_goes_on(place: Place, number: int) -> None:
    words = ("--target.data.block", "1", "--target.data.limit-per-class", "1", "--align.batch-size", "1")
    command = [sys.executable, "-m", "diffadapt.cli", "run", "small", "--root", str(place.root), *words]
    paths = os.pathsep.join(map(str, (ROOT / "platform", ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        deadline = time.monotonic() + 120
        while not place.stored("aligned") and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.send_signal(number)
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130, error
    assert error.strip().endswith(
        "Interrupted. Everything finished is kept; the same command goes on from here."
    )
    assert "Traceback" not in error and not list(place.root.rglob("*.tmp-*"))
    kept = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in place.stored("aligned")}
    assert 1 <= len(kept) < 10
    assert "interrupted" in diffadapt("status", "--root", place.root).output
    result = place.run(*words)
    assert result.status == 0, result.text
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in kept} == kept
    assert len(place.stored("aligned")) == 10
    assert "finished" in diffadapt("status", "--root", place.root).output
