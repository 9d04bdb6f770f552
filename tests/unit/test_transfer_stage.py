"""The transfer stage: keys, sizes, seeds and attempts; bad items; what is refused while planning; and once
with real networks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import transferkit as kit
from corekit import receipts_of
from transferkit import SMALL, TABLE, Scripted, ToyScenes

from diffadapt.core.artifact import IGNORED, SCENE_SCHEMA
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.store import Store
from diffadapt.data.image import decode
from diffadapt.data.scenes.table import plain_table
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.stages.translate import TransferScenes


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from tests.diffusionkit import tiny_scene_pipeline

    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    import torch

    from diffadapt.models.segmentation.build import build_segmenter
    from diffadapt.models.segmentation.folder import save_segmenter

    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("segmenter"))
    config = replace(SMALL, void_channel=False)
    save_segmenter(build_segmenter(config, 3), folder, config, TABLE, {})
    return folder


def config(where: str, **changes) -> TransferConfig:
    return TransferConfig(
        **{
            "weights": where,
            "controlnet": "",
            "size": 32,
            "multiple": 16,
            "steps": 4,
            "batch_size": 4,
            **changes,
        }
    )


def pipeline(
    scenes: ToyScenes,
    transfer: TransferConfig,
    quality: QualityConfig = QualityConfig(),
    segmenter: str = "",
    **more,
) -> Pipeline:
    stage = TransferScenes(transfer, quality, TABLE, SMALL, **more)
    nodes = [Node("source", scenes)]
    if segmenter:
        nodes.append(Node("model", kit.Segmenter(segmenter), ("source",)))
    return Pipeline((*nodes, Node("transferred", stage, ("source", *(["model"] if segmenter else [])))))


@pytest.fixture
def scripted(monkeypatch):
    """Puts a scripted generator in the place of the real one."""

    def put(generator: Scripted) -> Scripted:
        monkeypatch.setattr(
            "diffadapt.diffusion.translation.pipeline.load_scene_transfer",
            lambda config, classes, device: generator,
        )
        return generator

    return put


def made(p: Pipeline, folder) -> tuple[dict[str, dict], dict[str, str]]:
    """(key -> row, key -> reason of failure) over all shards."""
    store = Store(str(folder))
    receipts_of(p, store)
    parts = [store.load(s.path) for s in p.plan(store)["transferred"].shards]
    failures = [f for rows in parts for f in rows.failures]
    assert len({f.key for f in failures}) == len(failures)
    return {row["key"]: row for rows in parts for row in rows.table.to_pylist()}, {
        f.key: f.reason for f in failures
    }


def name(i: int) -> str:
    return f"source/0/street/{i:03d}"


def test_rows_keep_keys_and_carry_labels_and_boxes_to_the_generated_size(weights, scripted, tmp_path):
    scripted(Scripted(size=(16, 32)))
    rows, failures = made(pipeline(ToyScenes(5, boxes=True), config(weights)), tmp_path)
    assert list(rows) == [name(i) for i in range(5)] and not failures
    row = rows[name(3)]
    assert set(row) == {*SCENE_SCHEMA.names, "accepted", "attempts", "strength", "scores"}
    labels, image = decode(row["annotation"]["bytes"], 1, "x")[..., 0], decode(row["image"]["bytes"], 3, "x")
    assert labels.shape == image.shape[:2] == (16, 32) and set(np.unique(labels)) <= {0, 1, 2, IGNORED}
    truth = kit.toy_scene(3)[1]
    assert (labels == truth[1::2, 1::2]).mean() == 1.0
    assert row["objects"][0]["bbox"] == [4.0, 8.0, 10.0, 12.0] and row["objects"][0]["category"] == 2
    assert row["accepted"] and row["attempts"] == 1 and row["strength"] == 0.9 and row["colours"] is None
    assert {"edges", "structure", "luminance", "change"} <= set(json.loads(row["scores"]))


def test_seeds_come_from_the_key_alone(weights, scripted, tmp_path):
    seeds = []
    for i, (block, changes) in enumerate([(4, {}), (3, {"batch_size": 1}), (6, {"images_per_shard": 2})]):
        scripted(Scripted())
        rows, _ = made(pipeline(ToyScenes(6, block), config(weights, **changes)), tmp_path / str(i))
        seeds.append({key: row["seed"] for key, row in rows.items()})
    assert seeds[0] == seeds[1] == seeds[2] and len(set(seeds[0].values())) == 6
    scripted(Scripted())
    rows, _ = made(pipeline(ToyScenes(6), config(weights), seed=1), tmp_path / "other")
    assert not set(seeds[0].values()) & {row["seed"] for row in rows.values()}


def test_refused_scenes_are_tried_again_with_another_seed(weights, scripted, tmp_path):
    generator = scripted(Scripted(lambda key, attempt: attempt > 0 or not key.endswith("1")))
    rows, _ = made(pipeline(ToyScenes(4), config(weights), QualityConfig(edges=0.5, retries=3)), tmp_path)
    assert all(row["accepted"] for row in rows.values())
    assert [row["attempts"] for row in rows.values()] == [1, 2, 1, 1]
    (_, first, _), (again, second, strength) = generator.asked
    assert again == [name(1)] and second[0] not in first and strength == 0.9
    assert rows[name(1)]["seed"] == second[0] and json.loads(rows[name(1)]["scores"])["tried"] == [
        ["edges"],
        [],
    ]


def test_retries_may_take_strength_off(weights, scripted, tmp_path):
    generator = scripted(Scripted(lambda key, attempt: attempt == 2))
    quality = QualityConfig(edges=0.5, retries=2, retry="strength", strength_step=0.2)
    rows, _ = made(pipeline(ToyScenes(2), config(weights), quality), tmp_path)
    assert [strength for _, _, strength in generator.asked] == [0.9, 0.7, 0.5]
    assert all(row["accepted"] and row["strength"] == 0.5 and row["attempts"] == 3 for row in rows.values())


def test_of_refused_attempts_the_best_is_kept_and_marked(weights, scripted, tmp_path):
    generator = scripted(
        Scripted(lambda key, attempt: attempt == 1)
    )  # dark in the second attempt, as bright as noise in the others
    quality = QualityConfig(edges=0.5, luminance=(100.0, 120.0), retries=2)
    rows, _ = made(pipeline(ToyScenes(2), config(weights), quality), tmp_path)
    for row in rows.values():
        scores = json.loads(row["scores"])
        assert not row["accepted"] and row["attempts"] == 3
        assert (
            scores["reasons"] == ["luminance"]
            and scores["tried"][1] == ["luminance"]
            and "edges" in scores["tried"][0]
        )
        assert decode(row["image"]["bytes"], 3, "x").max() < 100
    assert len(generator.asked) == 3


def test_bad_items_are_set_apart_and_the_rest_goes_on(weights, scripted, tmp_path):
    scripted(Scripted(poisonous=["3"], fits=2))
    scenes = ToyScenes(8, bare=(5,), broken=(2,))
    rows, failures = made(pipeline(scenes, config(weights, images_per_shard=3)), tmp_path)
    assert set(rows) == {name(i) for i in (0, 1, 4, 6, 7)}
    assert set(failures) == {name(i) for i in (2, 3, 5)}
    assert (
        "broken" in failures[name(2)]
        and "NaN" in failures[name(3)]
        and "no label map" in failures[name(5)]
        and "img2img" in failures[name(5)]
    )


def test_unlabelled_scenes_can_be_transferred_without_a_layout(weights, scripted, tmp_path):
    scripted(Scripted())
    rows, failures = made(pipeline(ToyScenes(2, bare=(0, 1)), config(weights, method="img2img")), tmp_path)
    assert not failures and all(row["annotation"] is None and row["accepted"] for row in rows.values())


def test_a_failed_attempt_is_repeated_too(weights, scripted, tmp_path):
    class Sometimes(Scripted):
        def _one(self, scene, seed):
            self.poisonous = ["0"] if not self.made.get(scene.key) else []
            return super()._one(scene, seed)

    scripted(Sometimes())
    rows, failures = made(pipeline(ToyScenes(2), config(weights), QualityConfig(retries=1)), tmp_path)
    assert (
        not failures
        and rows[name(0)]["attempts"] == 2
        and json.loads(rows[name(0)]["scores"])["tried"] == [["failed"], []]
    )


@pytest.mark.parametrize(
    ("changes", "quality", "said"),
    [
        ({"domain": "nihgt"}, {}, "Did you mean 'night'"),
        ({"strength": 1.5}, {}, "strength is 1.5"),
        ({"strength": 0.1}, {}, "strength"),
        ({"multiple": 12}, {}, "multiples of 8"),
        ({}, {"luminance": (90.0, 20.0)}, "darkest"),
        ({}, {"clip_score": 0.4}, "quality.clip is empty"),
        ({}, {"retries": 4, "retry": "strength", "strength_step": 0.2}, "quality.retries is 4"),
        ({}, {"retries": 1, "retry": "strength", "strength_step": 0.0}, "strength_step is 0"),
        ({"method": "layout"}, {"retries": 1, "retry": "strength"}, "starts from noise"),
        ({}, {"consistency": 0.5}, "needs 1 fitted models"),
    ],
)
def test_settings_that_cannot_work_are_named_while_planning(weights, tmp_path, changes, quality, said):
    with pytest.raises(RecipeError, match=said):
        pipeline(ToyScenes(2), config(weights, **changes), QualityConfig(**quality)).plan(
            Store(str(tmp_path))
        )


def test_weights_that_cannot_serve_are_named_while_planning(weights, tmp_path):
    from tests.unit.tinypipelines import stable_diffusion, stable_diffusion_xl

    store = Store(str(tmp_path / "store"))
    plain = stable_diffusion(tmp_path / "sd")
    with pytest.raises(WeightsError, match=r"no controlnet folder of its own"):
        pipeline(ToyScenes(2), config(plain)).plan(store)
    with pytest.raises(WeightsError, match="is no ControlNet"):
        pipeline(ToyScenes(2), config(plain, controlnet=f"{plain}/unet")).plan(store)
    with pytest.raises(WeightsError, match="XL"):
        pipeline(
            ToyScenes(2), config(stable_diffusion_xl(tmp_path / "xl"), controlnet=f"{weights}/controlnet")
        ).plan(store)
    with pytest.raises(WeightsError, match="does not reduce pictures 2 times"):
        pipeline(ToyScenes(2), config(plain, controlnet=f"{weights}/controlnet")).plan(store)
    foreign = plain_table("kitchen", [("pan", (1, 2, 3)), ("pot", (3, 2, 1))])
    with pytest.raises(RecipeError, match="kitchen"):
        Pipeline(
            (
                Node("source", ToyScenes(2)),
                Node("t", TransferScenes(config(weights, palette="ade20k"), classes=foreign), ("source",)),
            )
        ).plan(store)


def test_identity_is_what_acts(weights, tmp_path):
    import shutil

    def family(quality: QualityConfig = QualityConfig(), **changes) -> str:
        return (
            pipeline(ToyScenes(2), config(weights, **changes), quality)
            .plan(Store(str(tmp_path)))["transferred"]
            .family
        )

    moved = shutil.copytree(weights, tmp_path / "moved")
    base = family()
    same = (
        {"weights": str(moved)},
        {"batch_size": 1},
        {"images_per_shard": 1},
        {"domain": "mine", "prompt": "driving at night", "strength": 0.9},
        {"source_prompt": "by day"},
    )
    other = (
        {"strength": 0.5},
        {"prompt": "at dusk"},
        {"guidance": 2.0},
        {"aligned": True},
        {"palette": "own"},
        {"method": "layout"},
        {"size": 48},
    )
    assert all(family(**c) == base for c in same) and len({base, *(family(**c) for c in other)}) == 1 + len(
        other
    )
    assert family(QualityConfig(strength_step=0.3)) == base != family(QualityConfig(edges=0.3))
    assert family(method="img2img") == family(
        method="img2img", palette="own", control_scale=0.5, aligned=True
    )
    assert family(method="layout") == family(method="layout", strength=0.4)


def test_weights_that_were_not_averaged_are_the_default(weights, tmp_path):
    """As ZoDi's authors load them; what has one U-Net alone keeps its digests."""
    import shutil

    def variant(**changes) -> str:
        where = changes.pop("weights", weights)
        return TransferScenes(config(where, **changes)).identity()["config"]["variant"]

    both = shutil.copytree(weights, tmp_path / "both")
    file = both / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(file, file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert variant() == "" and variant(weights=str(both)) == "non_ema"
    assert variant(weights=str(both), variant="") == "" and variant(variant="fp16") == "fp16"
    hub = TransferConfig().weights
    assert variant(weights=hub) == variant(weights=f"{hub}@main") == "non_ema", "also before a download"
    assert variant(weights="someone/else") == variant(weights="train") == variant(weights="own:place") == ""


def test_with_real_networks(weights, segmenter, tmp_path):
    quality = QualityConfig(consistency=0.01, retries=1)
    parts = [
        made(
            pipeline(
                ToyScenes(4),
                config(weights, palette="own", strength=0.5, batch_size=size),
                quality,
                segmenter,
            ),
            tmp_path / str(size),
        )[0]
        for size in (1, 3)
    ]
    for key, row in parts[0].items():
        images = [decode(p[key]["image"]["bytes"], 3, key).astype(int) for p in parts]
        assert images[0].shape == (32, 64, 3) and np.abs(images[0] - images[1]).max() <= 1
        scores = json.loads(row["scores"])
        assert set(scores["iou"]) == {"sky", "road", "car"}
        original, here = (np.mean([pair[i] for pair in scores["iou"].values()]) for i in (0, 1))
        assert original > 0 and scores["consistency"] == pytest.approx(here / original, abs=2e-3)
        assert row["accepted"] == (scores["consistency"] >= 0.01)


def test_a_trained_generator_takes_the_place_of_weights(weights, tmp_path):
    stage = TransferScenes(config("train", palette="own", strength=0.5), QualityConfig(), TABLE, SMALL)
    p = Pipeline(
        (
            Node("source", ToyScenes(1)),
            Node("generator", kit.Generator(weights), ("source",)),
            Node("transferred", stage, ("source", "generator")),
        )
    )
    rows, failures = made(p, tmp_path)
    assert list(rows) == [name(0)] and not failures
    assert p.plan(Store(str(tmp_path)))["transferred"].revisions == {}
