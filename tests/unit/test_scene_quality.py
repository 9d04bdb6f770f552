"""Quality control of transferred scenes: what is measured, how it is judged, and the record of every
decision."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import tinypipelines as tiny
import transferkit as kit
from corekit import PlainRunner, receipts_of
from transferkit import SMALL, TABLE, Scripted, ToyScenes

from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.stage import WorkContext
from diffadapt.core.store import Store
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.diffusion.translation.quality import DomainScore, compare
from diffadapt.diffusion.translation.verdict import judge, said
from diffadapt.stages.quality import Quality
from diffadapt.stages.roles import KEPT, kept_keys
from diffadapt.stages.translate import TransferScenes

DAY = kit.toy_scene(0, (64, 96))[0]


def test_an_image_beside_itself():
    same = compare(DAY, DAY)
    assert (
        same["edges"] == same["structure"] == 1
        and same["change"] == 0
        and same["luminance"] == same["source_luminance"]
    )


def test_edges_and_structure_survive_the_dark_but_not_another_scene():
    night, other = compare(DAY, DAY // 4), compare(DAY, DAY[::-1])
    noise = compare(DAY, np.random.default_rng(0).integers(0, 256, DAY.shape, dtype=np.uint8))
    assert night["edges"] > 0.95 > 0.6 > other["edges"] > noise["edges"] and abs(noise["edges"]) < 0.1
    assert night["structure"] > other["structure"] > noise["structure"]
    assert (
        night["luminance"] == pytest.approx(night["source_luminance"] / 4, abs=1)
        and night["contrast"] < same_contrast()
    )
    assert night["change"] > 50


def same_contrast() -> float:
    return compare(DAY, DAY)["contrast"]


def test_measures_of_other_sizes_and_of_flat_images():
    half = DAY[::2, ::2]
    assert compare(DAY, half)["edges"] > 0.8
    flat = compare(DAY, np.full_like(DAY, 90))
    assert flat["edges"] == 0 and flat["luminance"] == 90 and flat["deviation"] == flat["contrast"] == 0
    assert all(math.isfinite(v) for v in flat.values())


def test_luma_is_rec_601():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert compare(colours, colours)["luminance"] == pytest.approx(
        (0.299 + 0.587 + 0.114) * 255 / 3, abs=1e-3
    )


def test_judgement():
    config = QualityConfig(consistency=0.5, edges=0.4, luminance=(10, 90), clip="folder", clip_score=0.6)
    good = {"consistency": 0.5, "edges": 0.4, "luminance": 90, "clip": 0.6}
    assert judge(good, config).accepted and judge(good, config).shortfall == 0
    bad = judge({"consistency": 0.25, "edges": 0.2, "luminance": 141, "clip": 0.1}, config)
    assert bad.reasons == ("consistency", "edges", "luminance", "clip") and bad.shortfall == pytest.approx(
        0.5 + 0.5 + 0.2 + 0.5 / 0.6
    )
    assert judge({**good, "edges": float("nan")}, config).reasons == ("edges",)
    assert judge(
        {**good, "consistency": None}, config
    ).accepted  # no class of the label map is seen on the original either
    assert judge({"edges": -1.0, "luminance": 255, "clip": 0.0}, QualityConfig(clip="folder")).accepted
    assert judge({"edges": -0.4}, QualityConfig(edges=-0.3)).reasons == ("edges",)
    assert (
        said({"luminance": 141.2}, config, "luminance") == "luminance 141.2 above 90"
        and said({"edges": 0.123}, config, "edges") == "edges 0.12 below 0.4"
    )


def test_the_source_model_is_compared_class_by_class(tmp_path):
    from diffadapt.diffusion.translation.consistency import SourceModel

    model = SourceModel.__new__(SourceModel)
    model.classes = TABLE
    original, transferred = np.array([0.8, 0.4, np.nan]), np.array([0.4, 0.2, np.nan])
    assert model.compare(original, transferred) == {
        "consistency": 0.5,
        "iou": {"sky": [0.8, 0.4], "road": [0.4, 0.2]},
    }
    assert model.compare(np.array([0.0, 0.0, np.nan]), transferred)["consistency"] is None
    assert model.compare(np.full(3, np.nan), np.full(3, np.nan)) == {"consistency": None, "iou": {}}


def test_clip_tells_the_domains_apart_by_their_prompts(tmp_path):
    folder = tiny.clip(tmp_path / "clip")
    images = [DAY, DAY // 4, 255 - DAY]
    forward, back = (
        DomainScore(folder, *prompts, "cpu")(images)
        for prompts in (
            ("driving at night", "driving in the daytime"),
            ("driving in the daytime", "driving at night"),
        )
    )
    assert all(0 <= p <= 1 for p in forward) and np.allclose(np.add(forward, back), 1, atol=2e-4)
    from diffadapt.models.clip import load_clip

    wanted = load_clip(folder).probabilities(images, [["driving at night"], ["driving in the daytime"]])[:, 0]
    assert np.allclose(forward, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from tests.diffusionkit import tiny_scene_pipeline

    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights"))


def pipeline(weights: str, quality: QualityConfig, scenes: ToyScenes) -> Pipeline:
    transfer = TransferConfig(weights=weights, controlnet="", size=32, multiple=16, steps=4, batch_size=4)
    return Pipeline(
        (
            Node("source", scenes),
            Node("transferred", TransferScenes(transfer, quality, TABLE, SMALL), ("source",)),
            Node("quality", Quality(quality), ("transferred",)),
        )
    )


def run(
    monkeypatch,
    weights: str,
    quality: QualityConfig,
    generator: Scripted,
    folder,
    scenes: ToyScenes = ToyScenes(6),
):
    """(the folder's local path, decisions, metrics)."""
    monkeypatch.setattr(
        "diffadapt.diffusion.translation.pipeline.load_scene_transfer",
        lambda config, classes, device: generator,
    )
    store, p = Store(str(folder)), pipeline(weights, quality, scenes)
    receipts_of(p, store)
    path = folder / p.plan(store)["quality"].shards[0].path
    return (
        path,
        json.loads((path / "decisions.json").read_text()),
        json.loads((path / "metrics.json").read_text()),
    )


def test_every_decision_is_recorded(monkeypatch, weights, tmp_path):
    generator = Scripted(
        lambda key, attempt: key.endswith(("0", "4", "5")) or (key.endswith("1") and attempt == 1),
        poisonous=["3"],
    )
    path, decisions, metrics = run(
        monkeypatch, weights, QualityConfig(edges=0.5, retries=1), generator, tmp_path
    )
    assert kept_keys(WorkContext("cpu", {"f": str(path)}, kinds={"f": "quality"})) == {
        f"source/0/street/00{i}" for i in (0, 1, 4, 5)
    }
    by_key = {i["key"][-1]: i for i in decisions["images"]}
    assert [by_key[k]["attempts"] for k in "01245"] == [1, 2, 2, 1, 1]
    assert (
        by_key["2"]["reason"] == "edges"
        and by_key["2"]["sentence"].startswith("refused: edges")
        and by_key["2"]["sentence"].endswith("below 0.5")
    )
    assert (
        by_key["1"]["tried"] == [["edges"], []]
        and by_key["1"]["kept"]
        and by_key["0"]["scores"]["edges"] > 0.9
    )
    assert decisions["failed"] == [["source/0/street/003", "the picture has NaN"]]
    wanted = {
        "images": 6,
        "kept": 4,
        "refused": 1,
        "failed": 1,
        "attempts": 7,
        "retried": 2,
        "reasons": {"edges": 1},
    }
    assert decisions["counts"] == wanted and {k: metrics[k] for k in wanted} == wanted
    assert (
        metrics["means"]["edges"] > 0.9
        and metrics["warnings"] == []
        and metrics["quarantined"] == decisions["failed"]
    )
    table = pq.read_table(path / KEPT).to_pylist()
    assert (
        [row["reason"] for row in table] == ["", "", "edges", "", ""]
        and table[0]["clip"] is None
        and table[0]["structure"] > 0.9
    )


def test_warnings(monkeypatch, weights, tmp_path):
    generator = Scripted(lambda key, attempt: key.endswith("0"))
    _, _, metrics = run(monkeypatch, weights, QualityConfig(edges=0.5), generator, tmp_path / "a")
    assert "refused 5 of 6" in metrics["warnings"][0] and "5 by edges" in metrics["warnings"][0]

    class Same(Scripted):
        def _one(self, scene, seed):
            return scene.image

    _, _, metrics = run(monkeypatch, weights, QualityConfig(), Same(), tmp_path / "b")
    assert "hardly differ" in metrics["warnings"][0]


@pytest.mark.parametrize(
    ("generator", "scenes", "wanted"),
    [
        (Scripted(lambda k, a: False), ToyScenes(3), "refused all 3"),
        (Scripted(), ToyScenes(3, bare=(0, 1, 2)), "none could be made"),
    ],
)
def test_nothing_left_is_an_error_in_one_sentence(monkeypatch, weights, tmp_path, generator, scenes, wanted):
    monkeypatch.setattr(
        "diffadapt.diffusion.translation.pipeline.load_scene_transfer",
        lambda config, classes, device: generator,
    )
    store, p, runner = (
        Store(str(tmp_path)),
        pipeline(weights, QualityConfig(edges=0.5), scenes),
        PlainRunner(),
    )
    plans = p.plan(store)
    stages = {n: plan.stage for n, plan in plans.items()}
    for _ in range(2):
        wave = next_wave(plans, finished(plans, store))
        runner.run_chains(wave.chains, stages, store, lambda r: None)
        runner.run_fits(wave.fits, stages, store, "", lambda r: None, None)
    last = runner.receipts[-1]
    assert (
        last.status == "failed"
        and last.error.startswith("DataError: No transferred image is left")
        and wanted in last.error
    )
