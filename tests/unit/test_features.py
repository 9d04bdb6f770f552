"""Cached features of a frozen backbone, predictions of heads on them, and the merged classifier."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffadapt.core.artifact import (
    FEATURES_SCHEMA,
    Failure,
    Rows,
    Shard,
    from_parquet,
    image_table,
    to_parquet,
)
from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.identity import digest
from diffadapt.core.stage import FitJob, InputFile, NodePlan, PlannedShard, WorkContext, plan_node
from diffadapt.core.store import Store
from diffadapt.models.backbone import load_backbone
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.config import BackboneConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.mlp_head import save_head
from diffadapt.models.preprocess import to_input
from diffadapt.stages.images import Images
from diffadapt.systems.adapt_anything.graph import plain
from diffadapt.tasks.classification.augment_views import make_views
from diffadapt.tasks.classification.feature_table import feature_arrays, load_features
from diffadapt.tasks.classification.features import Features
from diffadapt.tasks.classification.merge_head import MergeHead
from diffadapt.tasks.classification.predict import Predict
from diffadapt.tasks.classification.predict_head import PredictHead

NAMES = ("ant", "bee", "cat")
SHARD = Shard("s", {})


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> BackboneConfig:
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 4, 3)
    config = BackboneConfig(
        name=str(folder),
        resize=20,
        crop=16,
        mean=(0.4,) * 3,
        std=(0.3,) * 3,
        frozen=True,
        weak_views=2,
        strong_views=3,
        batch_size=24,
    )
    export_classifier(model, folder, "cifar_resnet8", config, list("abcd"))
    return config


def png(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def images(seeds: range, bad: tuple[int, ...] = ()) -> Rows:
    keys = [f"target/0/{i:02d}.png" for i in seeds]
    data = [b"no picture" if i in bad else png(i, (24 + i, 24)) for i in seeds]
    return Rows(
        image_table(keys, [None if i % 2 else i % 3 for i in seeds], data, [0] * len(keys)),
        [Failure("target/0/before.png", "unreadable before")],
    )


def extract(stage: Features, rows: Rows, **context) -> Rows:
    return stage.open(WorkContext("cpu", **context)).run(SHARD, [rows])


def files(*parts: Rows):
    """(files, read) of cached rows as a fit sees them."""
    found = [InputFile("features", str(i), None, Shard(str(i), {})) for i in range(len(parts))]
    return found, lambda file: parts[int(file.digest)]


def test_rows_hold_the_views_and_survive_parquet(config):
    rows = extract(Features(config), images(range(5), bad=(3,)))
    rows = from_parquet(to_parquet(rows, {}))
    assert rows.table.schema.equals(FEATURES_SCHEMA) and rows.column("key") == [
        f"target/0/{i:02d}.png" for i in (0, 1, 2, 4)
    ]
    assert rows.column("label") == [0, None, 2, 1] and [f.key for f in rows.failures] == [
        "target/0/before.png",
        "target/0/03.png",
    ]
    views = feature_arrays(rows)
    assert (
        views["test"].shape == (4, 64)
        and views["weak"].shape == (4, 2, 64)
        and views["strong"].shape == (4, 3, 64)
    )
    flat = np.concatenate([views["test"][:, None], views["weak"], views["strong"]], 1)
    assert all(not np.allclose(flat[0, i], flat[0, j]) for i in range(6) for j in range(i))


def test_every_view_is_what_the_backbone_makes_of_it(config):
    """Test by the prediction's preprocessing, weak and strong by the training's augmentation with the item's
    own seeds."""
    stage, rows = Features(config, "uda", True, 7), images(range(3))
    views = feature_arrays(extract(stage, rows))
    body, augments = load_backbone(config).module, make_views("uda", config, True)
    mean, std = torch.tensor(config.mean).view(-1, 1, 1), torch.tensor(config.std).view(-1, 1, 1)
    for i, (key, image) in enumerate(zip(rows.column("key"), rows.column("image"), strict=True)):
        array = np.asarray(Image.open(io.BytesIO(image["bytes"])))
        with torch.inference_mode():
            test = body(to_input([array], config))
            made = [
                (augments[kind](array, seed).float() / 255 - mean) / std for kind, seed in stage.seeds(key)
            ]
            others = body(torch.stack(made))
        assert np.allclose(views["test"][i], test[0], atol=1e-5)
        assert np.allclose(np.concatenate([views["weak"][i], views["strong"][i]]), others, atol=1e-5)


def test_features_do_not_depend_on_batches_shards_or_threads(config):
    stage = Features(config, "shift", True, 3)
    whole = feature_arrays(extract(stage, images(range(6))))
    for other in (
        extract(stage, images(range(6)), batch_size=7, threads=3),
        extract(stage, images(range(6)), batch_size=1),
    ):
        assert all(
            np.allclose(whole[kind], views, atol=1e-5) for kind, views in feature_arrays(other).items()
        )
    part = feature_arrays(extract(stage, images(range(4, 6))))
    assert all(np.allclose(whole[kind][4:], part[kind], atol=1e-5) for kind in whole)
    reseeded = feature_arrays(extract(replace(stage, seed=4), images(range(6))))
    assert np.allclose(whole["test"], reseeded["test"], atol=1e-5) and not np.allclose(
        whole["weak"], reseeded["weak"], atol=1e-3
    )


def test_identity_is_content_not_execution(config, tmp_path):
    stage = Features(config)

    def name(stage: Features) -> str:
        return digest([stage.identity(), stage.revisions()])

    copied = tmp_path / "copy"
    copied.mkdir()
    for file in Path(config.name).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    same = (replace(config, name=str(copied)), replace(config, batch_size=3), replace(config, frozen=False))
    assert {name(replace(stage, backbone=c)) for c in same} == {name(stage)}
    forks = [
        replace(stage, backbone=replace(config, weak_views=1)),
        replace(stage, augment="none"),
        replace(stage, flip=False),
        replace(stage, seed=1),
        replace(stage, backbone=replace(config, resize=16)),
    ]
    assert len({name(stage), *map(name, forks)}) == 6


def test_plan_refuses_random_weights(config):
    node = NodePlan(
        "images", Images(), "f", (), (PlannedShard(Shard("s", {"group": "target/0"}, (), 5), "d", None),)
    )
    (shard,) = Features(config).plan({"images": node})
    assert shard.items == 5 and shard.params["group"] == "target/0"
    with pytest.raises(RecipeError, match="frozen backbone needs trained weights"):
        Features(replace(config, name="train")).plan({"images": node})


def test_training_reads_chosen_rows_in_order(config):
    stage = Features(config)
    first, second = extract(stage, images(range(3))), extract(stage, images(range(3, 6), bad=(4,)))
    views = load_features(*files(first, second))
    assert views.keys == [f"target/0/{i:02d}.png" for i in (0, 1, 2, 3, 5)] and views.labels.tolist() == [
        0,
        -1,
        2,
        -1,
        -1,
    ]
    assert [f.key for f in views.failures].count("target/0/04.png") == 1 and views.width == 64
    expected = feature_arrays(second)["weak"][1, 1]
    assert np.array_equal(
        views.get([4], "weak", [3])[0].numpy(), expected
    )  # seed 3 of 2 views: the second one
    kept = load_features(*files(first, second), keep={"target/0/01.png", "target/0/05.png"})
    assert kept.keys == ["target/0/01.png", "target/0/05.png"] and np.array_equal(
        kept.get([1], "test", [0]), views.get([4], "test", [0])
    )
    with pytest.raises(DataError, match="no cached features"):
        load_features(*files(first), keep=set())
    with pytest.raises(DataError, match="differ in shape"):
        load_features(*files(first, extract(Features(replace(config, weak_views=1)), images(range(2)))))


def test_without_cached_views_training_sees_the_test_view(config):
    rows = extract(Features(replace(config, weak_views=0, strong_views=0)), images(range(3)))
    views = load_features(*files(rows))
    for kind in ("weak", "strong"):
        assert torch.equal(views.get([0, 2], kind, [5, 9]), views.get([0, 2], "test", [0, 0]))


def head(width: int) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_the_merged_classifier_predicts_what_the_head_predicts(config, tmp_path, kind):
    module = head(64) if kind == "deep" else nn.Linear(64, 3)
    save_head(tmp_path / "head", module.eval(), 64, NAMES, {"selection": "oracle"})
    rows = images(range(6), bad=(2,))
    cached = extract(Features(config), rows)
    on_features = (
        PredictHead(3).open(WorkContext("cpu", {"dann": str(tmp_path / "head")})).run(SHARD, [cached])
    )
    files = (InputFile("dann", "d", "p", Shard("all", {}), fitted=True, kind="uda"),)
    reporter = SimpleNamespace(rank=0, world_size=1, device="cpu")
    out = tmp_path / "merged"
    job = FitJob(
        "adapted",
        lambda name: (),
        Store(str(tmp_path / "store")),
        "",
        str(out),
        WorkContext("cpu", {"dann": str(tmp_path / "head")}, kinds={"dann": "uda"}),
        reporter,
        lambda file: None,
        files=files,
    )
    assert MergeHead(config, NAMES).fit(job)["width"] == 64
    on_images = (
        Predict(plain(config), 3, True).open(WorkContext("cpu", {"adapted": str(out)})).run(SHARD, [rows])
    )
    assert on_images.column("key") == on_features.column("key") and on_images.column(
        "label"
    ) == on_features.column("label")
    assert np.allclose(on_images.column("logits"), on_features.column("logits"), atol=1e-5)
    assert {f.key for f in on_features.failures} == {f.key for f in on_images.failures}
    assert "**Oracle" in (out / "README.md").read_text()
    assert load_classifier(replace(plain(config), name=str(out))).num_classes == 3


def test_a_head_of_other_classes_or_width_is_refused(config, tmp_path):
    save_head(tmp_path / "head", nn.Linear(32, 3), 32, NAMES)
    context = WorkContext("cpu", {"dann": str(tmp_path / "head")})
    with pytest.raises(DataError, match="has 3 classes, but the data have 5"):
        PredictHead(5).open(context)
    with pytest.raises(DataError, match="width 64, but the head takes 32"):
        PredictHead(3).open(context).run(SHARD, [extract(Features(config), images(range(2)))])


def test_a_shard_without_readable_images_is_empty(config, tmp_path):
    rows = extract(Features(config), images(range(2), bad=(0, 1)))
    assert len(rows) == 0 and len(rows.failures) == 3
    save_head(tmp_path / "head", nn.Linear(64, 3), 64, NAMES)
    predicted = PredictHead(3).open(WorkContext("cpu", {"dann": str(tmp_path / "head")})).run(SHARD, [rows])
    assert len(predicted) == 0 and len(predicted.failures) == 3


def test_nodes_have_places_in_the_store(config, tmp_path):
    store = Store(str(tmp_path))
    data = replace(Images().data, path="embedded:digits", split="test", block=300)
    target = plan_node("target", Images(data, (("target/0", ""),)), {}, store)
    cached = plan_node("features", Features(config), {"target": target}, store)
    assert len(cached.shards) == 2 and cached.items == 600 and all(p.path for p in cached.shards)


def test_a_frozen_backbone_has_one_view_unless_more_are_asked_for():
    frozen = BackboneConfig(frozen=True)
    assert (frozen.weak_views, frozen.strong_views) == (0, 0) and Features(frozen).views == 1
    asked = BackboneConfig(frozen=True, weak_views=4, strong_views=4)
    assert Features(asked).views == 9 and Features(asked).identity() != Features(frozen).identity()
    plain = BackboneConfig()  # nothing reads views then: the former default stays in the digest
    assert to_dict(plain, identity_only=True) == to_dict(replace(asked, frozen=False), identity_only=True)
    assert (
        from_dict(BackboneConfig, to_dict(plain)) == plain
        and from_dict(BackboneConfig, to_dict(frozen)) == frozen
    )
