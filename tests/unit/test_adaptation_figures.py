"""Pictures of an adaptation: what is drawn, from which rows, and that it is the same every time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from diffadapt.core.artifact import FEATURES_SCHEMA, LOGITS_SCHEMA, PROMPT_SCHEMA, Rows, Shard, image_table
from diffadapt.core.stage import FitJob, InputFile, NodePlan, PlannedShard, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.report.panels import RIGHT, WRONG, drawable
from diffadapt.tasks.classification import adaptation_pictures as draw
from diffadapt.tasks.classification.adaptation_figures import AdaptationFigures, first_of_classes
from diffadapt.tasks.classification.penultimate import penultimate

NAMES = ("zero", "b c", "日本")
GREY = BackboneConfig(
    name="train", arch="cifar_resnet8", in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.5,)
)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def has_colour(array: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(array - np.array(colour)).max(axis=-1) < 12).any())


def pictures(prefix: str, count: int, labelled: bool = True) -> Rows:
    rng = np.random.default_rng(len(prefix))
    images = [encode_png(rng.integers(0, 256, (16, 16, 1), dtype=np.uint8)) for _ in range(count)]
    return Rows(
        image_table(
            [f"{prefix}/0/i{i:03d}" for i in range(count)],
            [i % 3 if labelled else None for i in range(count)],
            images,
            [0] * count,
        )
    )


def logits(prefix: str, values: np.ndarray, labelled: bool) -> Rows:
    table = {
        "key": [f"{prefix}/0/i{i:03d}" for i in range(len(values))],
        "label": pa.array([i % 3 if labelled else None for i in range(len(values))], pa.int64()),
        "logits": [v.astype(np.float32) for v in values],
    }
    return Rows(pa.table(table, schema=LOGITS_SCHEMA))


def prompts() -> Rows:
    rows = [
        {
            "key": f"c{c:04d}/p{i:06d}",
            "label": c,
            "index": i,
            "category": NAMES[c],
            "prompt": f"photo {i} of a {NAMES[c]}",
            "source": "bank",
        }
        for i in range(9)
        for c in range(3)
    ]
    return Rows(pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA))


def job(tmp_path: Path, nodes: dict[str, list[Rows]], fitted: dict[str, str]) -> FitJob:
    files = {
        n: [InputFile(n, f"{n}{i}", None, Shard(f"s{i}", {}, (), len(r))) for i, r in enumerate(rows)]
        for n, rows in nodes.items()
    }
    rows = {f.digest: r for n, listed in files.items() for f, r in zip(listed, nodes[n], strict=True)}
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    return FitJob(
        "figures",
        lambda n: files[n],
        Store(str(tmp_path)),
        "",
        str(output),
        WorkContext("cpu", fitted),
        None,
        lambda f: rows[f.digest],
    )


def classifier(folder: Path, seed: int) -> str:
    from diffadapt.models.classifier import create_model
    from diffadapt.models.export import export_classifier

    torch.manual_seed(seed)
    return str(
        export_classifier(
            create_model("cifar_resnet8", 3, 1).eval(),
            folder,
            "cifar_resnet8",
            ClassifierConfig(
                **{f: getattr(GREY, f) for f in ("in_channels", "resize", "crop", "mean", "std")}
            ),
            NAMES,
        )
    )


STAGE = AdaptationFigures(
    NAMES,
    GREY,
    "prompts",
    "synth",
    "target",
    (("source only", "p0"), ("adapted", "p1")),
    "before",
    "after",
    sample=20,
)


@pytest.mark.parametrize("labelled", [True, False])
def test_all_pictures_of_a_run_twice_the_same(tmp_path, labelled):
    rng = np.random.default_rng(0)
    target = [pictures("target", 30, labelled)]
    values = rng.normal(size=(30, 3)) * 3
    nodes = {
        "prompts": [prompts()],
        "synth": [pictures("synthetic", 24)],
        "target": target,
        "p0": [logits("target", values, labelled)],
        "p1": [logits("target", values * 2, labelled)],
    }
    fitted = {"before": classifier(tmp_path / "a", 0), "after": classifier(tmp_path / "b", 1)}
    assert STAGE.fit(job(tmp_path, nodes, fitted)) == {"pictures": 4, "prompts": 12}
    out = tmp_path / "out"
    sections = json.loads((out / "figures.json").read_text())["sections"]
    assert [s["image"] for s in sections] == ["source.png", "confidence.png", "features.png", "histogram.png"]
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert STAGE.fit(job(tmp_path, nodes, fitted))["pictures"] == 4
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first
    listed = json.loads(first["prompts.json"])
    assert [p["prompt"] for p in listed["prompts"][:4]] == [
        f"photo {i} of a zero" for i in range(4)
    ] and listed["sources"] == ["bank"]
    sure = opened(first["confidence.png"])
    assert has_colour(sure, RIGHT) == labelled and has_colour(sure, WRONG) == labelled
    assert ("no labels" in sections[1]["caption"]) != labelled


def test_the_most_and_least_confident_images_are_found_in_their_shards(tmp_path):
    """Thirty grey levels in three shards; the logits name which are sure."""
    sides = np.linspace(0, 240, 30).astype(np.uint8)
    rows = [
        image_table(
            [f"target/0/i{i:03d}" for i in part],
            [None] * 10,
            [encode_png(np.full((16, 16, 1), sides[i])) for i in part],
            [0] * 10,
        )
        for part in np.arange(30).reshape(3, 10)
    ]
    size = np.zeros(30)
    size[4], size[17] = 9, -9
    values = np.stack([size, np.zeros(30), np.zeros(30)], axis=1)
    parts = [Rows(logits("target", values, False).table.slice(i * 10, 10)) for i in range(3)]
    opens: list[str] = []
    stage = AdaptationFigures(NAMES, GREY, target="target", predictions=(("x", "p"),))
    made = job(tmp_path, {"target": [Rows(r) for r in rows], "p": parts}, {})
    read = made.read
    made.read = lambda f: opens.append(f.digest) or read(f)
    assert stage.fit(made)["pictures"] == 2
    sheet = opened((tmp_path / "out" / "confidence.png").read_bytes())
    assert has_colour(sheet, (int(sides[4]),) * 3) and "target0" in opens


def test_frozen_mode_draws_cached_features_and_the_heads_hidden_layer(tmp_path):
    from torch import nn

    from diffadapt.models.mlp_head import save_head

    def cached(prefix: str) -> Rows:
        rng = np.random.default_rng(1)
        values = [
            {
                "key": f"{prefix}/0/i{i:03d}",
                "label": i % 3,
                "test": rng.normal(size=8).tolist(),
                "weak": [],
                "strong": [],
            }
            for i in range(25)
        ]
        return Rows(pa.Table.from_pylist(values, schema=FEATURES_SCHEMA))

    torch.manual_seed(0)
    save_head(tmp_path / "linear", nn.Linear(8, 3), 8, NAMES)
    save_head(tmp_path / "deep", nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), 8, NAMES)
    stage = AdaptationFigures(
        NAMES,
        BackboneConfig(frozen=True),
        before="a",
        after="b",
        features=("fs", "ft"),
        embedding="tsne",
        sample=25,
    )
    nodes = {"fs": [cached("source")], "ft": [cached("target")]}
    for after in ("deep", "linear"):
        assert (
            stage.fit(job(tmp_path, nodes, {"a": str(tmp_path / "linear"), "b": str(tmp_path / after)}))[
                "pictures"
            ]
            == 1
        )
    assert "hidden layer" in (tmp_path / "out" / "figures.json").read_text()


def test_nothing_to_draw_is_no_error(tmp_path):
    empty = Rows(pictures("t", 1).table.slice(0, 0))
    nodes = {
        "prompts": [prompts()],
        "synth": [empty],
        "target": [empty],
        "p0": [logits("t", np.zeros((0, 3)), False)],
        "p1": [logits("t", np.zeros((0, 3)), False)],
    }
    assert STAGE.fit(job(tmp_path, nodes, {"before": "", "after": ""}))["pictures"] == 1


def test_planning_takes_the_first_images_of_every_class_and_the_whole_target():
    def plan(name: str, shards: list[dict], items: int) -> NodePlan:
        return NodePlan(
            name,
            STAGE,
            name,
            (),
            tuple(
                PlannedShard(Shard(f"{name}{i}", p, (), items), f"{name}{i}", "")
                for i, p in enumerate(shards)
            ),
        )

    ranges = [
        {"start": s, "stop": s + 10, "first_class": c, "last_class": c + 8}
        for s in range(0, 200, 10)
        for c in (0, 8, 16)
    ]
    assert [p.shard.params["first_class"] for p in first_of_classes(plan("prompts", ranges, 80), 1)] == [
        0,
        8,
        16,
    ]
    assert len(first_of_classes(plan("synth", ranges, 80), 500)) == 7
    folder = [{"group": "clean/0", "start": 256 * i} for i in range(40)]
    picked = first_of_classes(plan("source", folder, 256), 500)
    assert len(picked) == 16 and picked[-1].shard.params["start"] > 256 * 36
    (shard,) = STAGE.plan({"target": plan("target", folder, 256), "prompts": plan("prompts", ranges, 80)})
    assert len(shard.inputs) == 43


def test_features_come_from_in_front_of_the_last_layer_of_any_network():
    import timm

    for name, width in (
        ("cifar_resnet8", 64),
        ("vit_tiny_patch16_224", 192),
        ("mobilenetv3_small_050", 1024),
    ):
        model = timm.create_model(name, num_classes=3).eval()
        x = torch.rand(2, 3, 224, 224)
        features, logits = penultimate(model, x, 3)
        assert features.shape == (2, width) and torch.allclose(logits, model(x), atol=1e-5)
        assert torch.allclose(model.get_classifier()(features), logits, atol=1e-4)


def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.array([5, 3, 1, 1, 1, 0.1])
    found = draw.principal_components(x)
    values, axes = np.linalg.eigh(np.cov(x.T))
    for k in range(2):
        expected = (x - x.mean(0)) @ axes[:, -1 - k]
        assert np.allclose(found[:, k], expected) or np.allclose(found[:, k], -expected)
    assert (draw.principal_components(np.ones((4, 3))) == 0).all() and draw.principal_components(
        np.arange(5.0)[:, None]
    ).shape == (5, 2)


def test_names_that_the_font_cannot_draw_are_numbered_and_accents_fall():
    assert (
        drawable("日本", "class 2") == "class 2"
        and drawable("back pack", "x") == "back pack"
        and drawable("Öl", "x") in ("Öl", "Ol")
    )


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16), (224, 300, 3), (30, 400, 3), (1000, 10, 3)])
def test_thumbnails_stay_within_their_bounds(shape):
    made = draw.thumbnail(np.zeros(shape, np.uint8), 48, 96)
    assert made.shape[2] == 3 and min(made.shape[:2]) >= 40 and max(made.shape[:2]) < 2 * 96


def test_colours_of_classes_differ():
    for count in (2, 10, 31, 40):
        assert len({draw.class_colour(c, count) for c in range(count)}) == count


def test_the_histogram_shows_shares():
    sheet = opened(draw.confidence_histograms({"all sure": np.ones(50), "none": np.zeros(0)}))
    blue = np.abs(sheet - np.array(draw.BAR)).max(axis=-1) < 12
    assert (
        blue.any() and blue[:, sheet.shape[1] // 2 :].sum() == 0 and blue[:, : sheet.shape[1] // 4].sum() == 0
    )
