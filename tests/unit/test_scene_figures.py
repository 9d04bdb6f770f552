"""Pictures of ZoDi: what they are made from, what they show, and what is left out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from corekit import receipts_of
from PIL import Image
from transferkit import TABLE, ToyScenes

from diffadapt.core.artifact import SEGMENTS_SCHEMA, Rows
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.stage import Stage, one_to_one
from diffadapt.core.store import Store
from diffadapt.data.image import decode, encode_png
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.diffusion.translation.config import QualityConfig
from diffadapt.metrics.segmentation import confusion
from diffadapt.report.figures import evenly
from diffadapt.stages.quality import Quality
from diffadapt.tasks.segmentation import pictures as draw
from diffadapt.tasks.segmentation.figures import SceneFigures


@dataclass(frozen=True)
class Darkened(Stage):
    """'Transferred' scenes: a third as bright; every third one is refused."""

    kind: ClassVar[str] = "transferred"

    def plan(self, inputs):
        return one_to_one(next(iter(inputs.values())))

    def open(self, context):
        return self

    def run(self, shard, inputs):
        table = inputs[0].table
        images = pa.array(
            [
                {"bytes": encode_png(decode(i["bytes"], 3, "x") // 3), "path": "x.png"}
                for i in inputs[0].column("image")
            ],
            table.schema.field("image").type,
        )
        table = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), images)
        good = [not key.endswith(("2", "5", "8")) for key in inputs[0].column("key")]
        scores = [json.dumps({"edges": 0.9 if g else 0.1, "reasons": [] if g else ["edges"]}) for g in good]
        for name, values in {
            "accepted": good,
            "attempts": [1] * len(good),
            "strength": [0.9] * len(good),
            "scores": scores,
        }.items():
            table = table.append_column(name, pa.array(values))
        return Rows(table)


@dataclass(frozen=True)
class Guessed(Stage):
    """'Predictions': the truth with its first ``wrong`` columns called road; without truth, all sky."""

    wrong: int = 0
    kind: ClassVar[str] = "segments"

    def plan(self, inputs):
        return one_to_one(next(iter(inputs.values())))

    def open(self, context):
        return self

    def run(self, shard, inputs):
        scenes, failures = decode_scenes(inputs[0])
        rows = []
        for s in scenes:
            labels = np.zeros((32, 64), np.uint8) if s.annotation is None else s.annotation.copy()
            labels[:, : self.wrong] = 1
            counts = None if s.annotation is None else confusion(s.annotation, labels, 3).ravel().tolist()
            rows.append(
                {
                    "key": s.key,
                    "label": None,
                    "prediction": {"bytes": encode_png(labels), "path": "x.png"},
                    "confusion": counts,
                    "confidence": 0.5,
                }
            )
        return Rows(pa.Table.from_pylist(rows, schema=SEGMENTS_SCHEMA), failures)


def pipeline(
    source: int = 12, target: int = 9, bare: tuple[int, ...] = (), block: int = 4, **more: Any
) -> Pipeline:
    quality = QualityConfig(edges=0.5)
    figures = SceneFigures(
        TABLE,
        "source",
        "transferred",
        "target",
        (("Source only", "first"), ("Both", "middle"), ("ZoDi", "last")),
        **more,
    )
    return Pipeline(
        (
            Node("source", ToyScenes(source, block)),
            Node("transferred", Darkened(), ("source",)),
            Node("quality", Quality(quality), ("transferred",)),
            Node("target", ToyScenes(target, block, group="night", dark=True, bare=bare)),
            Node("first", Guessed(30), ("target",)),
            Node("middle", Guessed(20), ("target",)),
            Node("last", Guessed(4), ("target",)),
            Node(
                "figures", figures, ("source", "transferred", "quality", "target", "first", "middle", "last")
            ),
        )
    )


def made(p: Pipeline, folder) -> tuple[Any, list[dict[str, str]]]:
    store = Store(str(folder))
    receipts_of(p, store)
    path = folder / p.plan(store)["figures"].shards[0].path
    return path, json.loads((path / "figures.json").read_text())["sections"]


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def has_colour(image: np.ndarray, colour) -> bool:
    return bool((image == np.array(colour)).all(-1).any())


def test_three_pictures_with_captions(tmp_path):
    path, sections = made(pipeline(), tmp_path)
    assert [s["image"] for s in sections] == ["transfers.png", "panels.png", "confusion.png"]
    assert (
        all(s["caption"] and s["title"] for s in sections)
        and "ZoDi" in sections[2]["title"]
        and "All 9 labelled" in sections[2]["caption"]
    )
    transfers = picture(path / "transfers.png")
    for colour in TABLE.colours:
        assert has_colour(transfers, colour) and has_colour(picture(path / "panels.png"), colour)
    assert json.loads((path / "metrics.json").read_text())["pictures"] == 3


def test_unlabelled_targets_have_no_truth_and_no_confusion(tmp_path):
    _, labelled = made(pipeline(), tmp_path / "a")
    path, sections = made(pipeline(bare=tuple(range(9))), tmp_path / "b")
    assert [s["image"] for s in sections] == ["transfers.png", "panels.png"] and "no labels" in sections[1][
        "caption"
    ]
    with_truth = tmp_path / "a" / pipeline().plan(Store(str(tmp_path / "a")))["figures"].shards[0].path
    assert picture(path / "panels.png").shape[1] < picture(with_truth / "panels.png").shape[1]


def test_two_images_and_partly_labelled_targets(tmp_path):
    path, sections = made(pipeline(source=1, target=2, bare=(1,)), tmp_path)
    assert len(sections) == 3 and "All 1 labelled" in sections[2]["caption"]
    assert picture(path / "panels.png").shape[0] > 150


def test_few_shards_are_read_and_none_twice(tmp_path):
    p = pipeline(source=40, target=40, block=2)
    inputs = p.plan(Store(str(tmp_path)))["figures"].shards[0].shard.inputs
    count = {
        n: sum(i.node == n for i in inputs)
        for n in ("source", "transferred", "quality", "target", "first", "middle", "last")
    }
    assert count == {
        "source": 8,
        "transferred": 8,
        "quality": 1,
        "target": 8,
        "first": 8,
        "middle": 0,
        "last": 20,
    }
    assert len({(i.node, i.digest) for i in inputs}) == len(inputs)


def test_evenly():
    assert evenly(range(10), 3) == [0, 3, 6] and evenly([1, 2], 5) == [1, 2] and evenly([], 4) == []


def test_a_contact_sheet_marks_what_was_refused():
    image = np.full((16, 24, 3), 200, np.uint8)
    sheets = [
        draw.contact_sheet([draw.Transfer(image, None, image, "text", accepted)], TABLE)
        for accepted in (True, False)
    ]
    green, red = (np.asarray(Image.open(io.BytesIO(s))).astype(int) for s in sheets)
    assert (
        green.shape == red.shape
        and (green[..., 1] - green[..., 0]).max() > 50 > (red[..., 1] - red[..., 0]).max()
    )


def test_pictures_of_nineteen_classes_stay_within_bounds():
    table, rng = builtin("cityscapes"), np.random.default_rng(0)
    labels = rng.integers(0, 19, (64, 128), dtype=np.uint8)
    image = rng.integers(0, 256, (256, 512, 3), dtype=np.uint8)
    sheet = Image.open(
        io.BytesIO(
            draw.panels(
                [draw.Panel(image, labels, [labels] * 3, ["mIoU 1.0"] * 3)] * 2, ["a", "b", "c"], table
            )
        )
    )
    assert sheet.width < 1700 and has_colour(np.asarray(sheet), table.colours[18])
    matrix = np.ones((20, 20), np.int64)
    matrix[16] = 0  # no train in the truth: no row, but a column, because it was predicted
    shown = Image.open(io.BytesIO(draw.confusion_matrix(matrix, table)))
    assert shown.width > shown.height - 100 and shown.height < 1000


def test_a_confusion_matrix_needs_labelled_pixels():
    with pytest.raises(ValueError, match="labelled"):
        draw.confusion_matrix(np.zeros((4, 4)), TABLE)


def test_void_predictions_are_black_and_named():
    labels = np.full((8, 8), 3, np.uint8)
    sheet = np.asarray(
        Image.open(
            io.BytesIO(
                draw.panels(
                    [draw.Panel(np.full((8, 8, 3), 99, np.uint8), None, [labels], [""])], ["a"], TABLE
                )
            )
        )
    )
    assert has_colour(sheet, (0, 0, 0))
