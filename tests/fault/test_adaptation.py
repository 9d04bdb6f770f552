"""Adapt Anything killed in every one of its stages: the same command finishes it with the bytes of an
undisturbed run."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.cli import main  # noqa: E402
from diffadapt.core.runs import Root  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from tests.tiny import tiny_adaptation  # noqa: E402
from tests.unit.tinypipelines import stable_diffusion  # noqa: E402
from tests.workers import in_the_background  # noqa: E402

STAGES = (
    "prompts",
    "synth",
    "filter",
    ".checkpoints",
    "uda",
    "logits",
    "split",
    "ssl",
    "validators",
    "figures",
)
"""Kinds of the store in the order of their first appearance; checkpoints are those of a fit under way."""


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return stable_diffusion(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, generator) -> dict[str, bytes]:
    torch.set_num_threads(1)
    root, recipe = Root(str(tmp_path_factory.mktemp("quiet"))), tiny_adaptation(generator)
    drive("tiny", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))
    return results(Path(root.location))


def results(root: Path) -> dict[str, bytes]:
    """Scores, predictions and the adapted weights of the only run under ``root``."""
    (run,) = (root / "runs").glob("tiny*")
    return {
        name: (run / name).read_bytes()
        for name in ("predictions.parquet", "model/model.safetensors", "validators.json")
    } | {"scores": repr(sorted(map(repr, Root(str(root)).run(run.name).scores()))).encode()}


def work(root: Path, generator: str) -> int:
    """The recipe's run to its end by the command line."""
    pipelines = root.parent / "pipelines"
    pipelines.mkdir(exist_ok=True)
    (pipelines / "tiny.py").write_text(
        "from tests.tiny import tiny_adaptation\n\n\ndef recipe():\n    return"
        f" tiny_adaptation({generator!r})\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(pipelines))
        return main(["run", "tiny", "--root", str(root)])


def kill_when(condition: Callable[[], bool], process: BaseProcess, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while process.is_alive() and not condition():
        assert time.monotonic() < end, "the stage was never reached"
        time.sleep(0.005)
    process.kill()
    process.join()


def finish_after_kills(
    tmp_path: Path, generator: str, conditions: list[Callable[[], bool]]
) -> dict[str, bytes]:
    root, log = tmp_path / "data", tmp_path / "log"
    for condition in conditions:
        kill_when(condition, in_the_background(work, root, generator, log=log))
    assert work(root, generator) == 0
    return results(root)


def count(root: Path, kind: str) -> int:
    return sum(1 for p in (root / "store" / kind).rglob("*") if p.is_file())


def one_more(root: Path, kind: str) -> Callable[[], bool]:
    """True once the store has a file of ``kind`` more than when this was first asked."""
    before: list[int] = []

    def reached() -> bool:
        if not before:
            before.append(count(root, kind))
        return count(root, kind) > before[0]

    return reached


def test_killed_while_it_trains(tmp_path, generator, undisturbed):
    root = tmp_path / "data"
    assert finish_after_kills(tmp_path, generator, [one_more(root, ".checkpoints")]) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_every_stage(tmp_path, generator, undisturbed):
    root = tmp_path / "data"
    assert finish_after_kills(tmp_path, generator, [one_more(root, kind) for kind in STAGES]) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_ten_random_moments(tmp_path, generator, undisturbed):
    moments = [random.uniform(3, 15) for _ in range(10)]
    print("moments", moments)

    def after(seconds: float) -> Callable[[], bool]:
        began: list[float] = []

        def reached() -> bool:
            began.append(time.monotonic())
            return began[-1] - began[0] > seconds

        return reached

    assert finish_after_kills(tmp_path, generator, [after(s) for s in moments]) == undisturbed
