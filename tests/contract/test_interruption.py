"""A whole SDA recipe, killed at several moments and resumed: every file of the store equals an undisturbed
run's."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.core.plan import summarise  # noqa: E402
from diffadapt.core.runs import Root, Run  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from diffadapt.systems.sda.recipe import SDA  # noqa: E402
from tests.tiny import tiny_sda  # noqa: E402
from tests.workers import in_the_background  # noqa: E402


def small() -> SDA:
    """Source, DDA and SDA on 10 images and two corruptions; the classifier trains 8 steps with a checkpoint
    every second."""
    full = tiny_sda()
    return replace(
        full,
        methods=("source", "dda", "sda"),
        controls=(),
        figures=False,
        target=replace(full.target, data=replace(full.target.data, limit_per_class=1, block=4)),
        classifier_fit=replace(full.classifier_fit, checkpoint_every=2),
        finetune=replace(full.finetune, checkpoint_every=1),
        synth=replace(full.synth, images_per_class=4, images_per_shard=2, steps=2),
        align=replace(full.align, respacing=5, start=2),
    )


def files(root: Path) -> dict[str, str]:
    """Every finished file of a store and its SHA-256; what killed writers left behind does not count."""
    store = root / "store"
    found = [p for p in sorted(store.rglob("*")) if p.is_file() and ".tmp-" not in p.name]
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


class Stopping(LocalRunner):
    """Ends its process, or raises, when ``receipts`` shards are done or a fit has made ``steps`` steps."""

    def __init__(self, config, how: str, receipts: int = 10**9, steps: int = 10**9):
        super().__init__(config)
        self.how, self.left, self.steps = how, receipts, steps

    def _end(self) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt

    def run_chains(self, chains, stages, store, on_receipt) -> None:
        def counting(receipt) -> None:
            on_receipt(receipt)
            self.left -= 1
            if self.left == 0:
                self._end()

        super().run_chains(list(chains)[::-1], stages, store, counting)

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        def stepping(node, step, total, scalars) -> None:
            on_progress(node, step, total, scalars)
            if step >= self.steps:
                self._end()

        super().run_fits(fits, stages, store, log_dir, on_receipt, stepping)


def go(root: Path, runner: LocalRunner | None = None, recipe: SDA | None = None) -> Run:
    torch.set_num_threads(1)
    recipe = recipe or small()
    return drive(
        "small", recipe, recipe.pipeline(), Root(str(root)), lambda: runner or LocalRunner(recipe.execution)
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    recipe = small()
    store = Root(str(root)).store
    planned = summarise(recipe.pipeline().plan(store), store)
    run = go(root)
    assert json.loads(run.read("execution.json"))["made"] == {n.name: n.missing for n in planned.nodes}, (
        "a plan's counts are what a run makes"
    )
    return root


POINTS = {
    "first": ("kill", 1, None),
    "middle": ("kill", 9, None),
    "raised": ("raise", 4, None),
    "training": ("kill", None, 5),
    "training, raised": ("raise", None, 3),
}


def killed(root: Path, limits: tuple[int, int]) -> None:
    go(root, Stopping(small().execution, "kill", *limits))


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=pytest.mark.slow if p in ("first", "middle") else ()) for p in POINTS]
)
def test_resumed_equals_undisturbed(undisturbed, tmp_path, point):
    how, receipts, steps = POINTS[point]
    limits = (receipts or 10**9, steps or 10**9)
    if how == "raise":
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, Stopping(small().execution, how, *limits))
    else:
        log = tmp_path.with_suffix(".log")
        ended = in_the_background(killed, tmp_path, limits, log=log)
        ended.join()
        assert ended.exitcode == -signal.SIGKILL, log.read_text()[-2000:]
    before = files(tmp_path)
    wanted = files(undisturbed)
    assert 0 < len(before) < len(wanted)
    run = go(tmp_path)
    assert files(tmp_path) == wanted
    whole = Root(str(undisturbed)).run("last")
    assert run.read("manifest.json") == whole.read("manifest.json") and run.read(
        "scores.parquet"
    ) == whole.read("scores.parquet")


def test_another_order_gives_the_same_bytes(undisturbed, tmp_path):
    go(tmp_path, Stopping(small().execution, "never"))
    assert files(tmp_path) == files(undisturbed)


def test_other_batch_sizes_agree_within_one_grey_level(undisturbed, tmp_path):
    """Digests are the same, so one store holds either; images may differ in the last level, keys and labels
    not at all."""
    import io

    import numpy as np
    from PIL import Image

    recipe = small()
    recipe = replace(
        recipe,
        synth=replace(recipe.synth, batch_size=3),
        align=replace(recipe.align, batch_size=1),
        methods=("source", "sda"),
    )
    go(tmp_path, recipe=recipe)
    ours, theirs = Root(str(tmp_path)).store, Root(str(undisturbed)).store
    compared = 0
    for name, plan in recipe.pipeline().plan(ours).items():
        if name not in ("synth", "aligned", "projected", "target"):
            continue
        for p in plan.shards:
            a, b = ours.load(p.path).table.to_pylist(), theirs.load(p.path).table.to_pylist()
            assert [(r["key"], r["label"], r["seed"]) for r in a] == [
                (r["key"], r["label"], r["seed"]) for r in b
            ]
            for x, y in zip(a, b, strict=True):
                u, v = (np.asarray(Image.open(io.BytesIO(r["image"]["bytes"])), np.int16) for r in (x, y))
                assert np.abs(u - v).max() <= 1, (name, x["key"])
                compared += 1
    assert compared == 40 + 40 + 20 + 20


def test_a_remote_root_holds_the_same_bytes(undisturbed):
    """Checkpoints, trained models, logs and the report go through fsspec; memory:// stands for any object
    store."""
    torch.set_num_threads(1)
    root = Root("memory://whole-sda")
    run = drive("small", small(), small().pipeline(), root, lambda: LocalRunner(small().execution))
    store = root.store
    found = {
        p.removeprefix(store.path + "/"): hashlib.sha256(store.fs.cat_file(p)).hexdigest()
        for p in store.fs.find(store.path)
    }
    assert found == files(undisturbed)
    assert (
        run.has("report.html")
        and run.has("scores.parquet")
        and root.runs.fs.find(root.runs.join(run.name, "tensorboard"))
    )
