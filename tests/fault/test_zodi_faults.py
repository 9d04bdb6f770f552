"""ZoDi killed in every one of its stages: the same command finishes it, and every file of the store equals an
undisturbed run's."""

from __future__ import annotations

import hashlib
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
from diffadapt.stages.translate import Translator  # noqa: E402
from diffadapt.systems.zodi.recipe import Zodi  # noqa: E402
from tests.diffusionkit import tiny_scene_pipeline  # noqa: E402
from tests.tiny_scenes import doubtful, tiny_zodi  # noqa: E402
from tests.workers import in_the_background  # noqa: E402

STAGES = (".checkpoints", "segmenter", "transferred", "segments", "quality", "figures")
"""Kinds of the store in the order of their first appearance; checkpoints are those of a fit under way."""


def small(generator: str) -> Zodi:
    """Source-only and ZoDi; the images are judged, and most are tried again."""
    return doubtful(tiny_zodi(generator, methods=("source_only", "zodi"), estimate=2))


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, generator) -> dict[str, str]:
    torch.set_num_threads(1)
    root, recipe = Root(str(tmp_path_factory.mktemp("quiet"))), small(generator)
    run = drive("tiny", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))
    assert run.manifest()["decisions"]["counts"]["retried"], "the transfer tries again"
    return results(Path(root.location))


def results(root: Path) -> dict[str, str]:
    """SHA-256 of every finished file of the store, and of the scores and the manifest of the only run."""
    store = root / "store"
    files = {
        p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file() and ".tmp-" not in p.name
    }
    (run,) = (root / "runs").glob("tiny*")
    files |= {name: run / name for name in ("scores.parquet", "manifest.json", "model/model.safetensors")}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in sorted(files.items())}


def work(root: Path, generator: str, slowly: Path | None = None) -> int:
    """The recipe's run to its end by the command line; ``slowly``: before an attempt at transferring it says
    so in that file, and waits."""
    pipelines = root.parent / "pipelines"
    pipelines.mkdir(exist_ok=True)
    (pipelines / "tiny.py").write_text(
        "from tests.fault.test_zodi_faults import small\n\n\ndef recipe():\n    return"
        f" small({generator!r})\n"
    )
    attempt = Translator._attempt

    def slow(self, number, *rest):
        with open(slowly, "a") as log:
            log.write(f"{number}\n")
        time.sleep(0.3 * (number > 0))
        attempt(self, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(pipelines))
        if slowly:
            patch.setattr(Translator, "_attempt", slow)
        return main(["run", "tiny", "--root", str(root)])


def start(root: Path, generator: str, *more: Path) -> BaseProcess:
    return in_the_background(work, root, generator, *more, log=root.parent / "log")


def kill_when(condition: Callable[[], bool], process: BaseProcess, seconds: float = 240) -> bool:
    """SIGKILL as soon as ``condition`` holds; whether it was still running then."""
    end = time.monotonic() + seconds
    while process.is_alive() and not condition():
        assert time.monotonic() < end, "the stage was never reached"
        time.sleep(0.002)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def one_more(root: Path, kind: str) -> Callable[[], bool]:
    """True once the store has a file of ``kind`` more than when this was first asked."""
    before: list[int] = []

    def count() -> int:
        return sum(1 for p in (root / "store" / kind).rglob("*") if p.is_file() and p.name != "family.json")

    def reached() -> bool:
        if not before:
            before.append(count())
        return count() > before[0]

    return reached


def finish(tmp_path: Path, generator: str) -> dict[str, str]:
    assert work(tmp_path / "data", generator) == 0
    return results(tmp_path / "data")


@pytest.mark.slow
def test_killed_while_it_tries_an_image_again(tmp_path, generator, undisturbed):
    """In the middle of a retry: nothing of the shard was stored, and its attempts are made again with the
    same seeds."""
    attempts = tmp_path / "attempts"
    process = start(tmp_path / "data", generator, attempts)
    assert kill_when(lambda: attempts.exists() and "1\n" in attempts.read_text(), process), (
        tmp_path / "log"
    ).read_text()[-2000:]
    assert finish(tmp_path, generator) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_every_stage(tmp_path, generator, undisturbed):
    killed = []
    for kind in STAGES:
        if kill_when(one_more(tmp_path / "data", kind), start(tmp_path / "data", generator)):
            killed.append(kind)
    assert len(killed) >= 4, f"only {killed} were caught in the act"
    assert finish(tmp_path, generator) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_six_random_moments(tmp_path, generator, undisturbed):
    moments = [random.uniform(2, 12) for _ in range(6)]
    print("moments", moments)
    for seconds in moments:
        end = time.monotonic() + seconds
        kill_when(lambda end=end: time.monotonic() > end, start(tmp_path / "data", generator))
    assert finish(tmp_path, generator) == undisturbed
