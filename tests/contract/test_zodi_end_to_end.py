"""ZoDi from labelled scenes to a segmenter: what a run leaves behind, what its settings change, and that an
interrupted one shows no trace."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.core.plan import summarise  # noqa: E402
from diffadapt.core.runs import Root  # noqa: E402
from diffadapt.diffusion.translation.config import QualityConfig  # noqa: E402
from diffadapt.run.drive import drive  # noqa: E402
from diffadapt.run.local import LocalRunner  # noqa: E402
from diffadapt.systems.zodi.recipe import METHODS, Zodi  # noqa: E402
from tests.diffusionkit import tiny_scene_pipeline  # noqa: E402
from tests.tiny_scenes import doubtful, streets, tiny_detection, tiny_zodi  # noqa: E402


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(scope="module")
def base(tmp_path_factory, generator):
    """(root, recipe, run): every method, two seeds, one control, and a quality control that refuses and tries
    again."""
    root, recipe = (
        Root(str(tmp_path_factory.mktemp("data"))),
        replace(doubtful(tiny_zodi(generator)), seeds=(0, 1), variants=("img2img",)),
    )
    planned = {
        n.name: n.missing
        for n in summarise(recipe.pipeline().plan(root.store), root.store).nodes
        if n.missing
    }
    run = go(root, recipe)
    assert made(run) == planned, "a plan counts what a run makes"
    return root, recipe, run


def go(root: Root, recipe, runner: LocalRunner | None = None):
    torch.set_num_threads(1)
    return drive("tiny", recipe, recipe.pipeline(), root, lambda: runner or LocalRunner(recipe.execution))


def made(run) -> dict[str, int]:
    return json.loads(run.read("execution.json"))["made"]


def missing(root: Root, recipe) -> set[str]:
    return {n.name for n in summarise(recipe.pipeline().plan(root.store), root.store).nodes if n.missing}


def rows(root: Root, recipe, node: str) -> list[dict]:
    return [
        row
        for p in recipe.pipeline().plan(root.store)[node].shards
        for row in root.store.load(p.path).table.to_pylist()
    ]


def test_the_rows_of_the_table(base):
    _, _, run = base
    scores = [s for s in run.scores() if s.metric in ("miou", "miou_source", "miou_estimated")]
    titles = [*METHODS.values(), "ZoDi, plain img2img"]
    assert Counter((s.method, s.metric, s.seed) for s in scores) == Counter(
        (t, m, seed) for t in titles for m in ("miou", "miou_source", "miou_estimated") for seed in (0, 1)
    )
    assert all(0 <= s.value <= 100 for s in scores) and {s.method for s in scores if s.control} == {
        "ZoDi, plain img2img"
    }
    assert {s.images for s in scores if s.metric != "miou_estimated"} == {4}
    assert {s.metric.partition(".")[2] for s in run.scores() if s.metric.startswith("iou.")} >= {
        "road",
        "sky",
    }
    assert [s.method for s in run.scores() if s.metric == "miou" and s.seed == 0] == titles


def test_the_files_of_a_run(base):
    root, recipe, run = base
    page = run.read("report.html").decode()
    assert (
        page.count("data:image/png;base64,") >= 2
        and "Source + transferred" in page
        and "driving at night" in page
    )
    assert (
        run.has("figures/transfers.png")
        and run.has("model/segmenter.json")
        and run.has("model/model.safetensors")
    )
    decisions = run.manifest()["decisions"]["counts"]
    assert (
        decisions["images"] == 6 == decisions["kept"] + decisions["refused"]
        and decisions["attempts"] > 6
        and decisions["kept"]
        and decisions["retried"]
    )
    stored = rows(root, recipe, "transferred")
    source = recipe.pipeline().plan(root.store)["source"]
    reader = source.stage.open(None)
    assert [r["key"] for r in stored] == [
        r["key"] for p in source.shards for r in reader.run(p.shard, ()).table.to_pylist()
    ]
    assert (
        sum(r["accepted"] for r in stored) == decisions["kept"]
        and sum(r["attempts"] for r in stored) == decisions["attempts"]
    )
    assert {round(r["strength"], 2) for r in stored} <= {
        0.9,
        0.7,
        0.5,
    }, "each retry takes a step off the strength"
    pairs = json.loads(run.read("model/segmenter.json"))["extra"]["pairs"]
    assert pairs == decisions["kept"], "training sees what was accepted"


def test_a_second_run_makes_nothing(base):
    root, recipe, run = base
    before, manifest, scores = made(run), run.read("manifest.json"), run.scores()
    written = {p: p.stat().st_mtime_ns for p in Path(root.location, "store").rglob("*") if p.is_file()}
    again = go(root, recipe)
    assert made(again) == before
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert again.read("manifest.json") == manifest and again.scores() == scores


def test_another_weight_of_the_similarity_trains_zodi_again_and_nothing_else(base):
    root, recipe, _ = base
    found = missing(root, replace(recipe, training=replace(recipe.training, similarity=0.5)))
    assert found and {name.split(".")[0].partition("_on_")[0] for name in found} == {"zodi", "figures"}


def test_another_strength_makes_the_transfer_again_and_leaves_the_source_alone(base):
    root, recipe, _ = base
    found = missing(root, replace(recipe, transfer=replace(recipe.transfer, strength=0.8)))
    assert {
        "transferred",
        "transferred_test",
        "quality",
        "transferred_only.s0",
        "both.s1",
        "zodi_on_target.s0",
        "source_only_on_transferred_test.s0",
    } <= found
    kept = {name for name in found if name.startswith("source_only") and "transferred_test" not in name}
    assert not kept, "what was trained on the source alone, and its predictions, stay"


def test_the_four_cells_of_the_ablation(base):
    """ControlNet yes or no x inversion yes or no: ZoDi and three variants, each a transfer of its own."""
    root, recipe, _ = base
    recipe = replace(recipe, variants=("no_inversion", "no_control", "img2img"))
    plan = recipe.pipeline().plan(root.store)
    cells = {
        name.partition(".")[2]: (node.stage.config.method, node.stage.config.control_scale > 0)
        for name, node in plan.items()
        if node.stage.kind == "transferred" and name != "transferred_test"
    }
    assert cells == {
        "": ("stochastic", True),
        "no_inversion": ("controlnet_img2img", True),
        "no_control": ("stochastic", False),
        "img2img": ("img2img", True),  # a method that no ControlNet has part in, whatever its weight
    }
    assert len({plan[f"transferred.{v}" if v else "transferred"].family for v in cells}) == 4
    assert {"zodi.no_inversion.s0", "zodi.no_control.s0", "zodi.img2img.s0"} <= set(plan)


def test_a_domain_is_its_words(base):
    """Night under another name is the same domain; another prompt is another one."""
    root, recipe, _ = base
    same = replace(
        recipe,
        transfer=replace(recipe.transfer, domain="after dark", prompt="driving at night", strength=0.9),
    )
    assert "transferred" not in missing(root, same)
    assert "transferred" in missing(
        root, replace(recipe, transfer=replace(recipe.transfer, prompt="driving by moonlight"))
    )


def test_another_seed_of_training_keeps_the_images(base):
    root, recipe, _ = base
    found = missing(root, replace(recipe, seeds=(0, 1, 2)))
    assert found and all(name.endswith("s2") for name in found - {"figures"})


def test_another_source_is_transferred_anew_and_the_estimates_images_stay(base):
    root, recipe, _ = base
    nodes = {
        n.name: n
        for n in summarise(
            replace(recipe, source=streets("train", limit=9)).pipeline().plan(root.store), root.store
        ).nodes
    }
    assert (nodes["transferred"].items, nodes["transferred"].shards) == (9, 6)
    plain = replace(recipe, quality=QualityConfig(), methods=("both",), seeds=(0,), variants=())
    assert missing(root, replace(plain, source=streets("train", limit=9))) >= {"transferred", "both"}


def test_without_a_target_and_with_the_best_epoch_on_the_source(base, generator):
    """No target image at all: figures, estimate and model are there, and the epoch is chosen on the source's
    test images."""
    root = base[0]
    recipe = tiny_zodi(generator, methods=("zodi",), target=streets("test", "night"))
    recipe = replace(
        recipe,
        target=replace(recipe.target, path=""),
        training=replace(recipe.training, select="best_source"),
    )
    run = go(root, recipe)
    assert {s.metric for s in run.scores() if "." not in s.metric} >= {
        "miou_source",
        "miou_estimated",
    } and not [s for s in run.scores() if s.metric == "miou"]
    assert (
        {s.selection for s in run.scores()} == {"best_source"}
        and run.has("model/segmenter.json")
        and run.has("figures/transfers.png")
    )


class Interrupting(LocalRunner):
    """Raises KeyboardInterrupt at the ``at``-th event of a kind: a receipt of a node, or a step of its
    training."""

    def __init__(self, config, node: str, at: int):
        super().__init__(config)
        self.node, self.left = node, at

    def _seen(self, node: str) -> None:
        self.left -= node == self.node
        if self.left == 0:
            raise KeyboardInterrupt

    def run_chains(self, chains, stages, store, on_receipt) -> None:
        def counting(receipt) -> None:
            on_receipt(receipt)
            self._seen(receipt.node)

        super().run_chains(list(chains)[::-1], stages, store, counting)

    def run_fits(self, fits, stages, store, log_dir, on_receipt, on_progress) -> None:
        def stepping(node, step, total, scalars) -> None:
            on_progress(node, step, total, scalars)
            self._seen(node)

        super().run_fits(fits, stages, store, log_dir, on_receipt, stepping)


def files(root: str) -> dict[str, str]:
    """Every finished file of the store and its SHA-256."""
    store = Path(root) / "store"
    found = [p for p in sorted(store.rglob("*")) if p.is_file() and ".tmp-" not in p.name]
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.parametrize("system", ["zodi", pytest.param("detection", marks=pytest.mark.slow)])
def test_interrupted_at_every_stage_equals_undisturbed(tmp_path, generator, system):
    if system == "zodi":
        recipe, points = small(generator), [("transferred", 2), ("zodi", 1), ("zodi_on_target", 1)]
    else:
        recipe, points = tiny_detection(generator), [("transferred", 2), ("both", 2), ("both_on_target", 1)]
    whole, stopped = Root(str(tmp_path / "whole")), Root(str(tmp_path / "stopped"))
    run = go(whole, recipe)
    seen: set[int] = set()
    for node, at in points:
        with pytest.raises(KeyboardInterrupt):
            go(stopped, recipe, Interrupting(recipe.execution, node, at))
        assert len(files(stopped.location)) not in seen, "every attempt gets further"
        seen.add(len(files(stopped.location)))
    again = go(stopped, recipe)
    assert files(stopped.location) == files(whole.location)
    assert again.read("manifest.json") == run.read("manifest.json") and again.read(
        "scores.parquet"
    ) == run.read("scores.parquet")


def small(generator: str) -> Zodi:
    """Source-only and ZoDi, the images judged and tried again."""
    recipe = doubtful(tiny_zodi(generator, methods=("source_only", "zodi"), estimate=0))
    return replace(
        recipe,
        source_test=replace(recipe.source_test, path=""),
        training=replace(recipe.training, epochs=3, checkpoint_every=1),
    )
