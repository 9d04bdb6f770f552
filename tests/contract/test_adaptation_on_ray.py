"""Adapt Anything on Ray: the local runner's manifest, scores and bytes; fits on two workers; a training
worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("ray")

from diffadapt.core.errors import RecipeError  # noqa: E402
from diffadapt.core.runs import Root, Run  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from tests.tiny import tiny_adaptation  # noqa: E402
from tests.unit.tinypipelines import stable_diffusion  # noqa: E402


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return stable_diffusion(tmp_path_factory.mktemp("weights") / "sd")


def go(root: Path, recipe, **execution) -> Run:
    """``recipe`` to its end: on Ray where ``execution`` says how wide, else locally."""
    torch.set_num_threads(1)
    config = replace(recipe.execution, **execution)
    runner = RayRunner(replace(config, runner="ray")) if execution else LocalRunner(config)
    return drive("tiny", recipe, recipe.pipeline(), Root(str(root)), lambda: runner)


def small(generator: str, **changes):
    """Stage 1, its baseline and stage 2, without controls and pictures."""
    return tiny_adaptation(generator, **{"controls": (), "figures": False, **changes})


def weights(root: Path, recipe) -> dict[str, dict[str, torch.Tensor]]:
    """Node -> tensors of every trained model."""
    store = Root(str(root)).store
    found = {}
    for name, plan in recipe.pipeline().plan(store).items():
        if plan.stage.fit_stage:
            for file in Path(store.join(plan.shards[0].path)).glob("*.safetensors"):
                found[name] = load_file(file)
    assert len(found) >= 3
    return found


def differing(recipe, one: Path, other: Path) -> list[str]:
    """Names in the store whose bytes differ, those of fits included."""
    ours, theirs = Root(str(one)).store, Root(str(other)).store
    found = []
    for plan in recipe.pipeline().plan(ours).values():
        for p in plan.shards:
            if not p.path:
                continue
            files = sorted(f"{p.path}/{n}" for n in ours.list(p.path)) if plan.stage.fit_stage else [p.path]
            found += [f for f in files if ours.read_bytes(f) != theirs.read_bytes(f)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", ["small", "all", "frozen"])
def test_both_runners_make_the_same(tmp_path, generator, what):
    recipe = small(generator) if what == "small" else tiny_adaptation(generator)
    if what == "frozen":
        model = f"{go(tmp_path / 'backbone', small(generator)).url}/model"
        recipe = replace(
            recipe,
            backbone=replace(
                recipe.backbone, name=model, arch=None, frozen=True, weak_views=2, strong_views=1
            ),
        )
    local = go(tmp_path / "local", recipe)
    ray = go(tmp_path / "ray", recipe, actors=1 if what == "small" else 2)
    assert json.loads(ray.read("execution.json"))["runner"] == "ray"
    assert ray.name == local.name and ray.manifest() == local.manifest()
    assert ray.scores() == local.scores() and len(local.scores()) == (3 if what == "small" else 6)
    assert json.loads(ray.read("warnings.json")) == json.loads(local.read("warnings.json"))
    assert differing(recipe, tmp_path / "local", tmp_path / "ray") == []


def two_wide(generator: str):
    """Trained by two workers as by one: batch statistics of both. DANN and FixMatch have no other
    coupling."""
    recipe = small(generator)
    return replace(
        recipe, uda=replace(recipe.uda, sync_batch_norm=True), ssl=replace(recipe.ssl, sync_batch_norm=True)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fits_on_two_workers_equal_those_on_one(tmp_path, generator):
    recipe = two_wide(generator)
    one, two = go(tmp_path / "one", recipe), go(tmp_path / "two", recipe, actors=1, train_workers=2)
    assert two.manifest()["nodes"] == one.manifest()["nodes"], "the width is no part of what is made"
    ours, theirs = weights(tmp_path / "one", recipe), weights(tmp_path / "two", recipe)
    assert ours.keys() == theirs.keys()
    largest = max(float((ours[n][k] - theirs[n][k]).abs().max()) for n in ours for k in ours[n])
    print("largest deviation of a weight", largest)
    assert 0 < largest < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_training_worker_is_replaced_and_nothing_shows(tmp_path, generator):
    recipe = two_wide(generator)
    longer = replace(
        recipe, uda=replace(recipe.uda, steps_per_epoch=60), ssl=replace(recipe.ssl, steps_per_epoch=60)
    )
    width = {"actors": 1, "train_workers": 2}
    quiet = go(tmp_path / "quiet", longer, **width)
    killed: list[str] = []
    stop = threading.Event()
    hunter = threading.Thread(
        target=_kill_a_trainer_of_each_stage, args=(tmp_path / "killed", killed, stop), daemon=True
    )
    hunter.start()
    try:
        disturbed = go(tmp_path / "killed", longer, **width)
    finally:
        stop.set()
        hunter.join(timeout=10)
    assert killed == ["uda", "ssl"]
    assert disturbed.scores() == quiet.scores()
    assert differing(longer, tmp_path / "quiet", tmp_path / "killed") == []


def _kill_a_trainer_of_each_stage(root: Path, killed: list[str], stop: threading.Event) -> None:
    """Once in stage 1 and once in stage 2, when a checkpoint has been written: SIGKILL to one of the training
    workers."""
    for stage in ("uda", "ssl"):
        while not stop.is_set():
            done = list((root / "store" / stage).glob("**/_SUCCESS"))
            begun = list((root / "store" / ".checkpoints").glob("*/*"))
            ready = (
                begun
                and not done
                and (stage == "uda" or len(list((root / "store" / "split").glob("**/_SUCCESS"))) > 0)
            )
            workers = _training_workers() if ready else []
            if workers:
                os.kill(workers[-1], signal.SIGKILL)
                killed.append(stage)
                break
            time.sleep(0.01)


def _training_workers() -> list[int]:
    """Descendants of this process that Ray Train started, by process id."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
                parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has just ended
                continue

    def ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return sorted(pid for pid, name in names.items() if "RayTrainWorker" in name and ours(pid))


def test_a_batch_that_the_workers_cannot_share_is_refused_when_planning(generator):
    recipe = small(generator)
    for stage in ("uda", "ssl"):
        odd = replace(
            recipe,
            **{stage: replace(getattr(recipe, stage), batch_size=9)},
            execution=replace(recipe.execution, train_workers=2),
        )
        with pytest.raises(
            RecipeError, match=f"{stage}.batch_size is 9, which 2 workers cannot share evenly"
        ):
            odd.pipeline()
        replace(odd, execution=recipe.execution).pipeline()
