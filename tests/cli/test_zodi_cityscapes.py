"""``zodi/cityscapes_acdc`` as a user runs it: planned without data, then on trees of the official names and
sizes, small by one field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from diffadapt.core.runs import Root, Run
from tests.cli.badinput import Result, diffadapt
from tests.diffusionkit import tiny_scene_pipeline
from tests.scenekit import ACDC_SIZE, CITYSCAPES_SIZE, fake_acdc, fake_cityscapes

RECIPE = "zodi/cityscapes_acdc"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def counts(plan: Result) -> dict[str, tuple[int, int]]:
    """Stage -> (shards, images) of a plan's table."""
    assert plan.status == 0, plan.text
    rows = (re.match(r"\s+(\S+)\s+(\d+)\s+\d+\s+(\d+)\s+\d+", line) for line in plan.output.splitlines())
    return {m[1]: (int(m[2]), int(m[3])) for m in rows if m}


def test_published_counts_are_planned_without_a_file(tmp_path: Path) -> None:
    for words in ((), ("--data", tmp_path / "nowhere", "--target", tmp_path / "nor here")):
        plan = diffadapt("plan", RECIPE, "--root", tmp_path / "root", *words)
        found = counts(plan)
        assert (
            found["transferred"] == (93, 2975)
            and found["transferred_test"] == (4, 100)
            and found["source_only"] == (1, 2975)
        )
        assert (
            found["zodi_on_target"] == (4, 106)
            and found["zodi_on_source_test"] == (16, 500)
            and found["zodi_on_transferred_test"] == (4, 100)
        )
        assert "Not at hand" in plan.output and not (tmp_path / "root" / "store").exists()
    fog = counts(diffadapt("plan", f"{RECIPE}/fog", "--root", tmp_path / "root"))
    assert fog["zodi_on_target"] == (4, 100)
    assert (
        counts(diffadapt("plan", "zodi/cityscapes_gta5", "--root", tmp_path / "root"))["zodi_on_target"][1]
        == 1000
    )
    diffadapt("run", RECIPE, "--root", tmp_path / "root").sentence("no labelled scenes", "--data")
    diffadapt("run", RECIPE, "--root", tmp_path / "root", "--data", tmp_path / "nowhere").sentence(
        "nowhere does not exist"
    )
    diffadapt("plan", "zodi", "--root", tmp_path / "root").sentence("no labelled scenes", "--source")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two training, one validation and one night image at the official sizes, and a generator of random
    weights."""
    folder = tmp_path_factory.mktemp("cityscapes")
    fake_cityscapes(folder / "cityscapes", {"aachen": 1, "zurich": 1}, CITYSCAPES_SIZE)
    fake_cityscapes(folder / "cityscapes", {"frankfurt": 1}, CITYSCAPES_SIZE, "val")
    fake_acdc(folder / "acdc", {"night": 1}, ACDC_SIZE)
    tiny_scene_pipeline(folder / "generator")
    return folder


def words(place: Path) -> list[object]:
    return [
        RECIPE,
        "--data",
        place / "cityscapes",
        "--target",
        place / "acdc",
        "--generator",
        place / "generator",
        "--controlnet",
        "",
        "--segmenter.weights",
        "none",
        "--scale",
        "0.125",
        "--epochs",
        "1",
        "--execution.runner",
        "local",
        "--execution.threads",
        "1",
        "--root",
        place / "root",
        "--partial",
        "true",
    ]


SMALL = ("--backbone", "timm:cifar_resnet8", "--segmenter.width", "8", "--transfer.steps", "4")
"""A network of seconds in ResNet-50's place, and less of the sampling."""


def test_other_counts_than_published_are_refused(place: Path) -> None:
    message = diffadapt("run", *words(place)[:-2]).sentence("2 images", "2,975", "partial")
    assert "aachen" not in message


@pytest.mark.parametrize(
    "further", [SMALL, pytest.param((), marks=pytest.mark.slow)], ids=["small", "as it is"]
)
def test_every_stage_at_a_scale_of_one_eighth(place: Path, further: tuple[str, ...]) -> None:
    plan = diffadapt("plan", *words(place), *further)
    planned = counts(plan)
    assert (
        "Not at hand" not in plan.output
        and planned["transferred"] == (1, 2)
        and planned["transferred_test"] == (1, 1)
        and planned["zodi_on_target"] == (1, 1)
    )
    done = diffadapt("run", *words(place), *further)
    assert done.status == 0, done.text
    run = Root(str(place / "root")).run("last")
    made = json.loads(run.read("execution.json"))["made"]
    assert {name: shards for name, (shards, _) in planned.items()} == made, "the plan counts what is made"
    assert (
        planned.keys()
        == made.keys()
        >= {"transferred", "quality", "source_only", "transferred_only", "both", "zodi", "figures"}
    )
    _outputs(run, done, place)
    _geometry(run, place)
    assert ": 0 of " in diffadapt("plan", *words(place), *further).output


def _outputs(run: Run, done: Result, place: Path) -> None:
    scores = run.scores()
    for metric in ("miou", "miou_source", "miou_estimated"):
        assert [s.method for s in scores if s.metric == metric] == [
            "Source only",
            "Transferred only",
            "Source + transferred",
            "ZoDi",
        ]
    assert [s for s in scores if s.metric.startswith("iou.") and s.method == "ZoDi"], "by class"
    page = run.read("report.html").decode()
    assert page.count("data:image/png;base64,") >= 2 and "driving at night" in page and "traffic" in page
    assert "ZoDi" in done.output and "report.html" in done.output
    decisions = run.manifest()["decisions"]["counts"]
    assert (decisions["images"], decisions["kept"]) == (2, 2)
    facts = json.loads(run.read("model/segmenter.json"))
    assert (
        facts["config"]["size"] == [64, 128]
        and len(facts["classes"]["names"]) == 19
        and facts["extra"]["pairs"] == 2
    )
    assert str(place) not in run.read("model/segmenter.json").decode() + run.read("model/README.md").decode()


def _geometry(run: Run, place: Path) -> None:
    """Transferred images have the generated size, and label maps that are the source's, pixel for pixel."""
    from PIL import Image

    from diffadapt.data.image import decode
    from diffadapt.data.scenes.classes import builtin
    from diffadapt.data.scenes.label_maps import read_label_map
    from diffadapt.data.scenes.resize import resize_nearest

    store = Root(str(place / "root")).store
    shards = [
        store.load(p.relative_to(place / "root" / "store").as_posix()).table.to_pylist()
        for p in (place / "root" / "store" / "transferred").rglob("*.parquet")
    ]
    rows = next(rows for rows in shards if len(rows) == 2)
    assert [r["key"] for r in rows] == [
        "source/0/aachen/aachen_000000_000019",
        "source/0/zurich/zurich_000000_000019",
    ]
    for row in rows:
        image, labels = (
            decode(row["image"]["bytes"], 3, "x"),
            decode(row["annotation"]["bytes"], 1, "x")[..., 0],
        )
        file = (
            place / "cityscapes/gtFine/train" / f"{row['key'].removeprefix('source/0/')}_gtFine_labelIds.png"
        )
        with Image.open(file) as original:
            assert original.size == CITYSCAPES_SIZE[::-1]
        truth = read_label_map(file.read_bytes(), builtin("cityscapes"), "x").classes
        assert image.shape == (64, 128, 3) and np.array_equal(labels, resize_nearest(truth, (64, 128)))
