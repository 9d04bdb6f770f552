"""`predict` and `export` of a finished run whose model is a segmenter."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffadapt.cli import main
from diffadapt.core.runs import Root
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.source import open_scenes
from diffadapt.worlds.streets.scenes import StreetScene

RECIPE = '''"""A recipe for tests."""

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.systems.zodi.recipe import Zodi
from diffadapt.tasks.segmentation.config import SegmentTraining


def recipe():
    """A segmenter of eight streets, in a second."""
    streets = SceneConfig(path="embedded:streets", layout="streets", limit=8)
    return Zodi(
        source=streets,
        target=SceneConfig(path="embedded:streets", layout="streets", split="test", condition="night",
            limit=2),
        methods=("source_only",),
        segmenter=SegmenterConfig(backbone="timm:cifar_resnet8", weights="none", width=16, size=(32, 64)),
        figures=False,
        training=SegmentTraining(epochs=2, crop=(32, 32), lr=0.05),
    )
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder, root = tmp_path_factory.mktemp("pipelines"), tmp_path_factory.mktemp("root")
    (folder / "scenes.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(folder))
        assert main(["run", "scenes", "--root", str(root), "--execution.runner", "local"]) == 0
    return root


def test_a_name_that_no_file_may_have_stops_no_other(finished, tmp_path, capsys):
    Image.fromarray(StreetScene("night", "test", 0).image).save(tmp_path / "a.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "line\nbreak.png"):
        (folder / name).write_bytes((tmp_path / "a.png").read_bytes())
    words = ["predict", "--run", "last", "--root", str(finished), str(folder), "--execution.runner", "local"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "1 image has a name that no file here may have" in capsys.readouterr().err
    with open(tmp_path / "out" / "predictions.csv", newline="") as stream:
        found = {row["path"]: row for row in csv.DictReader(stream)}
    assert found["a.png"]["label_map"] and "rename the image" in found["line\nbreak.png"]["reason"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "new photos"
    (folder / "town").mkdir(parents=True)
    for i, size in enumerate(((64, 64), (97, 65))):
        Image.fromarray(StreetScene("night", "test", i).image).resize(size).save(folder / "town" / f"{i}.jpg")
    Image.fromarray(StreetScene("night", "test", 2).image).convert("RGBA").save(folder / "same.png")
    Image.fromarray(StreetScene("night", "test", 3).image).save(folder / "same.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    return folder


def predict(root: Path, photos: Path, out: Path) -> int:
    words = ["predict", str(photos), "--out", str(out), "--root", str(root), "--block", "2"]
    return main([*words, "--execution.runner", "local"])


def test_label_maps_lie_in_a_folder_that_is_a_data_set(finished, photos, tmp_path, capsys) -> None:
    from diffadapt.models.segmentation.folder import load_segmenter
    from diffadapt.models.segmentation.inputs import segment

    out = tmp_path / "out"
    assert predict(finished, photos, out) == 0
    said = capsys.readouterr()
    assert "4 label maps by scenes-" in said.out and "quarantine.jsonl" in said.err
    with open(out / "predictions.csv", encoding="utf-8") as handle:
        broken, *rows = csv.DictReader(handle)
    assert broken["path"] == "broken.jpg" and "not a readable image" in broken["reason"]
    assert not broken["label_map"] and not rows[0]["reason"]
    assert [r["path"] for r in rows] == ["same.jpg", "same.png", "town/0.jpg", "town/1.jpg"]
    assert [r["label_map"] for r in rows] == [
        "labels/same.jpg.png",
        "labels/same.png.png",
        "labels/town/0.png",
        "labels/town/1.png",
    ]
    net, config, classes, extra = load_segmenter(_model(finished))
    assert classes.names == builtin("streets").names and extra["method"] == "source_only"
    for row in rows:
        image = Image.open(photos / row["path"]).convert("RGB")
        labels, painted = Image.open(out / row["label_map"]), Image.open(out / row["overlay"])
        wanted = segment(net, config, [image])[0]
        assert (
            np.array_equal(np.asarray(labels), np.where(wanted < len(classes), wanted, 255))
            and labels.size == painted.size == image.size
        )
        assert 0 < float(row["confidence"]) <= 1
        first = int(np.asarray(labels)[0, 0])
        assert first == 255 or labels.convert("RGB").getpixel((0, 0)) == classes.colours[first]
    before = {p: p.stat().st_mtime_ns for p in (finished / "store").rglob("*.parquet")}
    assert predict(finished, photos, tmp_path / "again") == 0
    assert {p: p.stat().st_mtime_ns for p in (finished / "store").rglob("*.parquet")} == before
    assert (tmp_path / "again" / "labels" / "town" / "1.png").read_bytes() == (
        out / "labels" / "town" / "1.png"
    ).read_bytes()
    # the label maps are labels: as a data set of their own they are read with the class numbers that were
    # written
    (out / "images").mkdir()
    for row in rows[2:]:
        place = out / "images" / row["path"]
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((photos / row["path"]).read_bytes())
    (out / "labels" / "same.jpg.png").unlink()
    (out / "labels" / "same.png.png").unlink()
    source = open_scenes(SceneConfig(path=str(out)))
    assert [i.key for i in source.items] == ["town/0", "town/1"] and source.classes.names == classes.names


def _model(root: Path) -> Path:
    (found,) = (root / "runs").glob("scenes-*/model")
    return found


def test_bad_places_and_images_are_said_in_a_sentence(finished, photos, tmp_path, capsys) -> None:
    def sentence(status: int) -> str:
        assert status != 0
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert "exists and is not empty" in sentence(predict(finished, photos, tmp_path / "full"))
    assert "must be a folder" in sentence(predict(finished, photos, tmp_path / "p.parquet"))
    (tmp_path / "empty").mkdir()
    assert "holds no image" in sentence(predict(finished, tmp_path / "empty", tmp_path / "out"))


def test_the_exported_model_is_a_folder_with_the_runs_figures(finished, tmp_path) -> None:
    from diffadapt.models.segmentation.folder import load_segmenter

    assert main(["export", "scenes", "--root", str(finished), "--out", str(tmp_path / "model")]) == 0
    assert {"README.md", "model.safetensors", "segmenter.json"} <= {
        p.name for p in (tmp_path / "model").iterdir()
    }
    net, config, classes, _ = load_segmenter(tmp_path / "model")
    assert not net.training and config.size == (32, 64) and len(classes) == 8
    scores = {s.metric: s.value for s in Root(str(finished)).run("scenes").scores()}
    card = (tmp_path / "model" / "README.md").read_text()
    assert (
        f"mean IoU on the target, % | {round(scores['miou'], 2):.4g} |" in card
        and "pedestrian" in card
        and "8 labelled scenes of the source" in card
    )
    assert card == (_model(finished) / "README.md").read_text()


def test_rows_of_scenes_become_a_data_set(tmp_path) -> None:
    from diffadapt.core.artifact import IGNORED
    from diffadapt.core.errors import DataError
    from diffadapt.data.scenes.label_maps import read_label_map
    from diffadapt.data.scenes.write import write_scenes

    scene = StreetScene("day", "test", 0)
    image, labels = encode_png(scene.image), encode_png(scene.annotation)
    rows = [
        {"key": "source/0/a/x", "image": {"bytes": image}, "annotation": {"bytes": labels}, "accepted": True},
        {
            "key": "source/0/a/y",
            "image": {"bytes": image},
            "annotation": {"bytes": labels},
            "accepted": False,
        },
        {"key": "source/0/z", "image": {"bytes": image}, "annotation": {"bytes": labels}},
    ]
    table = builtin("streets")
    assert write_scenes(lambda: iter(rows), str(tmp_path / "out"), table) == 2
    source = open_scenes(SceneConfig(path=str(tmp_path / "out")))
    assert [i.key for i in source.items] == ["a/x", "z"] and source.classes.colours == table.colours
    raw = source.reader.read(source.items[0])
    found = read_label_map(raw.label, source.reading, "x")
    assert (
        np.array_equal(found.classes, scene.annotation)
        and (scene.annotation == IGNORED).any()
        and raw.image == image
    )
    for key in ("source/0/../../escape", "source/0//etc/passwd"):
        with pytest.raises(DataError, match="not a relative path inside"):
            write_scenes(
                lambda key=key: iter([{**rows[0], "key": key}]), str(tmp_path / key.replace("/", "")), table
            )


def test_boxes_become_coco_instances(tmp_path) -> None:
    from diffadapt.data.scenes.write import write_scenes

    image = encode_png(StreetScene("day", "test", 0).image)
    objects = [
        {"category": 7, "bbox": [3.5, 10.0, 20.25, 30.0], "crowd": False},
        {"category": 0, "bbox": [0.0, 0.0, 64.0, 64.0], "crowd": True},
    ]
    rows = [
        {"key": "source/0/x", "image": {"bytes": image}, "annotation": None, "objects": o}
        for o in (objects, [])
    ]
    rows[1]["key"] = "source/0/y"
    assert write_scenes(lambda: iter(rows), str(tmp_path / "out"), builtin("streets")) == 2
    source = open_scenes(
        SceneConfig(path=str(tmp_path / "out"), layout="coco", labels="instances.json", classes="streets")
    )
    assert [source.reader.read(item).objects for item in source.items] == [objects, []]
