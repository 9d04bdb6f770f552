"""Inputs as users bring them: folders that lack classes or hold more than images, masks, odd files."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import DataError
from diffadapt.core.recipes import load
from diffadapt.core.stage import InputFile, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.data.items import Source
from diffadapt.data.labels import bind_source
from diffadapt.data.readers import list_tree
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.data.scenes.table import ClassTable
from diffadapt.data.source import open_source
from diffadapt.models.classifier_source import locate
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.weights import resolve
from diffadapt.stages.scenes import Scenes
from diffadapt.tasks.segmentation.fit import FitSegmenter
from diffadapt.tasks.segmentation.scene_sets import load_scenes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def png(value: int, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), value % 256, np.uint8))


def tree(root: Path, *paths: str) -> Path:
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(i))
    return root


def classes(root: Path, names: str, count: int) -> Path:
    return tree(root, *(f"{name}/{i:02d}.png" for name in names for i in range(count)))


def said(source: Source) -> str:
    return " ".join(source.notes)


def sda(source: Path, target: Path, **changes):
    """`run sda/folder --data SOURCE --target.kind folder --target TARGET`."""
    recipe = load("sda/folder")
    data = replace(recipe.target.data, path=str(target), **changes)
    return replace(
        recipe,
        source=replace(recipe.source, path=str(source)),
        target=replace(recipe.target, kind="folder", data=data),
        classifier=replace(recipe.classifier, name="train", arch="cifar_resnet8"),
    )


def of_target(recipe, tmp_path: Path) -> Source:
    """What the node ``target`` of a recipe reads."""
    plans = recipe.pipeline().plan(Store(str(tmp_path / "store")))
    return plans["target"].stage.source("")


class TestLabelsOfATarget:
    def test_folders_that_lack_a_class_are_bound_to_the_sources_names(self, tmp_path):
        source, target = classes(tmp_path / "source", "137", 4), classes(tmp_path / "target", "17", 4)
        found = of_target(sda(source, target, part=(0.0, 1.0)), tmp_path)
        assert found.class_names == ("1", "3", "7")
        assert {i.key[0]: i.label for i in found.items} == {"1": 0, "7": 2}

    def test_so_are_those_of_a_real_source(self, tmp_path):
        recipe = load("adapt_anything/digits")
        source, target = classes(tmp_path / "source", "abc", 4), classes(tmp_path / "target", "bc", 4)
        recipe = replace(
            recipe,
            classes="",
            source=replace(recipe.source, path=str(source)),
            target=replace(recipe.target, path=str(target)),
        )
        found = of_target(recipe, tmp_path)
        assert {i.key[0]: i.label for i in found.items} == {"b": 1, "c": 2}

    def test_a_name_that_the_source_has_not_is_one_sentence(self, tmp_path):
        source, target = classes(tmp_path / "source", "137", 2), classes(tmp_path / "target", "19", 2)
        with pytest.raises(
            DataError, match=r"target have the class '9', which .*'1', '3', '7'.*labels none.*"
        ):
            of_target(sda(source, target, part=(0.0, 1.0)), tmp_path)
        recipe = sda(source, target, part=(0.0, 1.0), labels="none")
        assert {i.label for i in of_target(recipe, tmp_path).items} == {None}

    def test_folders_of_which_none_is_a_class_are_no_classes(self, tmp_path):
        source = classes(tmp_path / "source", "137", 2)
        photos = tree(tmp_path / "photos", "a.png", "may/b.png", "june/c.png")
        found = of_target(sda(source, photos), tmp_path)
        assert [(i.key, i.label) for i in found.items] == [
            ("a.png", None),
            ("june/c.png", None),
            ("may/b.png", None),
        ]
        assert "3 images count as unlabelled" in said(found)

    def test_the_fingerprint_changes_where_a_label_does_and_nowhere_else(self, tmp_path):
        whole = open_source(DataConfig(str(classes(tmp_path / "whole", "137", 2))))
        part = open_source(DataConfig(str(classes(tmp_path / "part", "17", 2))))
        names = ("1", "3", "7")
        assert bind_source(whole, names) is whole
        assert bind_source(part, names).fingerprint != part.fingerprint
        bare = open_source(DataConfig(str(tmp_path / "part"), labels="none"))
        assert bind_source(bare, names) is bare

    def test_names_in_parquet_and_csv_are_bound_and_numbers_stay(self, tmp_path):
        rows = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
        numbers = tmp_path / "numbers.parquet"
        pq.write_table(pa.table({"image": rows, "label": [2, 0, 2]}), numbers)
        found = bind_source(open_source(DataConfig(str(numbers))), ("x", "y", "z"))
        assert [i.label for i in found.items] == [2, 0, 2]
        with pytest.raises(DataError, match="label 2, but .* 2 classes"):
            bind_source(open_source(DataConfig(str(numbers))), ("x", "y"))
        named = tmp_path / "named.parquet"
        table = pa.table({"image": rows, "class_name": ["z", "y", "z"]})
        pq.write_table(table, named)
        found = bind_source(open_source(DataConfig(str(named))), ("x", "y", "z"))
        assert [i.label for i in found.items] == [2, 1, 2]
        photos = tree(tmp_path / "photos", "a.png", "b.png")
        (tmp_path / "labels.csv").write_text("a.png,z\nb.png,y\n")
        config = DataConfig(str(photos), labels=str(tmp_path / "labels.csv"))
        assert [i.label for i in bind_source(open_source(config), ("x", "y", "z")).items] == [2, 1]


class TestHalves:
    def test_a_target_of_its_own_counts_whole(self, tmp_path):
        source = classes(tmp_path / "source", "137", 8)
        photos = tree(tmp_path / "new", *(f"{i:02d}.png" for i in range(30)))
        assert len(of_target(sda(source, photos), tmp_path).items) == 30
        assert len(of_target(sda(source, photos, part=(0.0, 0.5)), tmp_path).items) == 15

    def test_a_folder_around_the_classes_is_no_class(self, tmp_path):
        root = classes(tmp_path / "set" / "dataset", "ab", 3).parent
        with pytest.raises(DataError, match="has the class 'dataset' alone.*may be a folder around"):
            sda(root, root).pipeline()

    def test_one_set_is_divided_between_source_and_target(self, tmp_path):
        source = classes(tmp_path / "source", "137", 8)
        recipe = sda(source, source / ".." / "source")
        assert len(of_target(recipe, tmp_path).items) == 12


class TestSplits:
    def test_train_and_val_are_no_classes(self, tmp_path):
        classes(tmp_path / "set" / "train", "137", 4)
        classes(tmp_path / "set" / "val", "137", 2)
        with pytest.raises(DataError, match=r"splits train, val .*\('1', '3', '7'\).*--source.split train"):
            open_source(DataConfig(str(tmp_path / "set")))
        with pytest.raises(DataError, match="no split 'test'"):
            open_source(DataConfig(str(tmp_path / "set"), split="test"))
        source = open_source(DataConfig(str(tmp_path / "set"), split="val"))
        assert source.class_names == ("1", "3", "7") and len(source.items) == 6 and source.name == "set"
        assert source.items[0].key == "1/00.png"
        assert len(open_source(DataConfig(str(tmp_path / "set"), labels="none")).items) == 18

    def test_folders_that_are_called_so_by_chance_are_classes(self, tmp_path):
        vehicles = tree(tmp_path / "set", "train/a.png", "car/b.png")
        assert open_source(DataConfig(str(vehicles))).class_names == ("car", "train")
        tests = tree(tmp_path / "flat", "train/a.png", "test/b.png")
        assert open_source(DataConfig(str(tests))).class_names == ("test", "train")


class TestFilesBesideImages:
    def test_other_formats_are_counted(self, tmp_path):
        root = tree(tmp_path / "photos", "a.png", "b.jfif", "c.JPE", "notes.txt", "Thumbs.db")
        for name in ("1.heic", "2.HEIC", "3.mp4", "README", "movie"):
            (root / name).write_bytes(b"x")
        source = open_source(DataConfig(str(root)))
        assert [i.key for i in source.items] == ["a.png", "b.jfif", "c.JPE"]
        assert "4 files left out: 2 .heic, 1 .mp4, 1 without a suffix" in said(source)
        assert "left out" in said(open_source(DataConfig(f"{root}/*")))
        (root / "phone").mkdir()
        (root / "phone" / "1.heic").write_bytes(b"x")
        with pytest.raises(DataError, match="1 file left out: 1 .heic"):
            open_source(DataConfig(f"{root}/phone"))
        assert said(open_source(DataConfig(str(tree(tmp_path / "plain", "a.png"))))) == ""

    def test_images_beside_class_folders_are_said(self, tmp_path):
        root = tree(tmp_path / "set", "a/1.png", "b/1.png", "loose.png")
        assert "1 image beside them is left out" in said(open_source(DataConfig(str(root))))
        assert len(open_source(DataConfig(str(root), labels="none")).items) == 3

    @pytest.mark.parametrize("names", [("a.png", "b.png"), ("x/a.png", "y/b.png")])
    def test_a_store_within_is_no_data(self, tmp_path, names):
        root = tree(tmp_path / "photos", *names)
        before = open_source(DataConfig(str(root)))
        image = pa.table({"image": [{"bytes": png(1), "path": "z.png"}]})
        for place in (root / "diffadapt-data", root):  # --root, and --root .
            for part in ("store", "runs"):
                Store(str(place / part)).prepare()
            (place / "store" / "images").mkdir()
            pq.write_table(image, place / "store" / "images" / "0-abc.parquet")
            (place / "runs" / "r").mkdir()
            (place / "runs" / "r" / "picture.png").write_bytes(png(7))
            after = open_source(DataConfig(str(root)))
            assert after.items == before.items and after.fingerprint == before.fingerprint
        for part in ("labels", "overlays"):
            tree(root / "predictions" / part, "a.png")
        (root / "predictions" / "classes.csv").write_text("")
        (root / "predictions" / "predictions.csv").write_text("")
        assert open_source(DataConfig(str(root))).items == before.items

    def test_a_store_in_a_bucket_is_no_data(self):
        fs = fsspec.filesystem("memory")
        for name in ("a.png", "diffadapt-data/runs/r/b.png"):
            fs.pipe_file(f"/in-bucket/{name}", png(1))
        fs.pipe_file("/in-bucket/diffadapt-data/store/store.json", b'{"format": 1}')
        assert [i.key for i in open_source(DataConfig("memory://in-bucket")).items] == ["a.png"]
        fs.rm("/in-bucket", recursive=True)

    def test_a_table_beside_images_is_no_data(self, tmp_path):
        root = tree(tmp_path / "photos", "a.png", "b.png")
        pq.write_table(pa.table({"path": ["a"], "label": [1]}), root / "predictions.parquet")
        source = open_source(DataConfig(str(root)))
        assert [i.key for i in source.items] == ["a.png", "b.png"]
        assert "'predictions.parquet' beside them is left out" in said(source)
        sets = tmp_path / "sets"
        sets.mkdir()
        rows = [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)]
        pq.write_table(pa.table({"image": rows}), sets / "train.parquet")
        pq.write_table(pa.table({"path": ["a"]}), sets / "metadata.parquet")
        source = open_source(DataConfig(str(sets)))
        assert len(source.items) == 2 and "'metadata.parquet'" in said(source)
        (sets / "train.parquet").unlink()
        with pytest.raises(DataError, match="no column 'image'"):
            open_source(DataConfig(str(sets)))


class TestNames:
    def test_files_of_a_hub_cache_are_links(self, tmp_path):
        cache = tmp_path / "datasets--org--name"
        (cache / "blobs").mkdir(parents=True)
        data = cache / "snapshots" / "rev" / "data"
        data.mkdir(parents=True)
        rows = [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)]
        pq.write_table(pa.table({"image": rows, "label": [0, 1]}), cache / "blobs" / "abc")
        (data / "train-00000-of-00001.parquet").symlink_to("../../../blobs/abc")
        for place in (data, data / "train-00000-of-00001.parquet", data / "train-*.parquet"):
            assert len(open_source(DataConfig(str(place))).items) == 2
        (cache / "blobs" / "def").write_bytes(png(1))
        (cache / "snapshots" / "rev" / "x.png").symlink_to("../../blobs/def")
        (tmp_path / "elsewhere.png").write_bytes(png(1))
        (data / "out.png").symlink_to(tmp_path / "elsewhere.png")
        with pytest.raises(DataError, match="leads out"):
            open_source(DataConfig(str(data)))
        (data / "out.png").unlink()
        images = cache / "snapshots" / "rev" / "images"
        images.mkdir()
        (images / "x.png").symlink_to("../../../blobs/def")
        assert [i.key for i in open_source(DataConfig(str(images))).items] == ["x.png"]

    def test_weights_of_a_hub_cache_are_links_too(self, tmp_path):
        (tmp_path / "blobs").mkdir()
        (tmp_path / "snapshots" / "rev").mkdir(parents=True)
        (tmp_path / "blobs" / "abc").write_bytes(b"x")
        link = tmp_path / "snapshots" / "rev" / "model.safetensors"
        link.symlink_to("../../blobs/abc")
        assert locate(ClassifierConfig(name=str(link))).place == resolve(str(link)) == str(link)
        (tmp_path / "own.safetensors").write_bytes(b"x")
        (tmp_path / "link.safetensors").symlink_to("own.safetensors")
        assert resolve(str(tmp_path / "link.safetensors")) == str(tmp_path / "own.safetensors")

    def test_a_name_that_is_not_text_is_said_and_the_others_are_used(self, tmp_path):
        root = tree(tmp_path / "photos", "a.png", "b.png")
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(png(1))
        for place in (str(root), f"{root}/*.png"):
            source = open_source(DataConfig(place))
            assert [i.key for i in source.items] == ["a.png", "b.png"] and source.fingerprint
            assert r"caf\xe9.png" in said(source)
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
        tree(folder, "a.png")
        with pytest.raises(DataError, match="not UTF-8"):
            open_source(DataConfig(str(folder)))

    @pytest.mark.parametrize("form", ["{}", "{}/*.png"])
    def test_what_leads_to_no_file_is_said_and_the_others_are_used(self, tmp_path, form):
        cache = tmp_path / "datasets--org--name"
        root = tree(cache / "snapshots" / "rev" / "images", "a.png")
        (root / "gone.png").symlink_to("../../../blobs/abc")  # a download that was not finished
        (root / "round.png").symlink_to("round.png")
        os.mkfifo(root / "pipe.png")
        source = open_source(DataConfig(form.format(root)))
        assert [i.key for i in source.items] == ["a.png"]
        assert "3 links that lead nowhere, or pipes or devices, are left out, such as 'gone.png'" in said(
            source
        )
        with pytest.raises(DataError, match="gone.png in .* is no file"):
            list_tree(fsspec.filesystem("file"), str(root))

    def test_names_in_a_csv_file_may_be_composed_otherwise(self, tmp_path):
        name = "caf\u00e9.png"
        root = tree(tmp_path / "photos", unicodedata.normalize("NFD", name))
        (tmp_path / "labels.csv").write_text(f"{name},x\n", encoding="utf-8")
        (source,) = (open_source(DataConfig(str(root), labels=str(tmp_path / "labels.csv"))),)
        assert [i.label for i in source.items] == [0]

    def test_labels_of_minus_one_are_none(self, tmp_path):
        rows = [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)]
        pq.write_table(pa.table({"image": rows, "label": [-1, -1]}), tmp_path / "test.parquet")
        assert [i.label for i in open_source(DataConfig(str(tmp_path / "test.parquet"))).items] == [None] * 2


def scenes(root: Path, maps: list[np.ndarray], table: str = "") -> SceneConfig:
    for i, label in enumerate(maps):
        for part, array in (("images", np.zeros((*label.shape[:2], 3), np.uint8)), ("labels", label)):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"s{i}.png").write_bytes(encode_png(array))
    if table:
        (root / "classes.csv").write_text(f"value,name,red,green,blue\n{table}")
    return SceneConfig(str(root), block=64)


def found_classes(config: SceneConfig) -> dict[str, int]:
    """Class -> how many pixels of a set have it; 'ignored' for those of none."""
    stage = Scenes(config)
    (shard,) = stage.plan({})
    rows = stage.open(WorkContext("cpu")).run(shard, ())
    decoded, failures = decode_scenes(rows)
    assert not failures and not rows.failures
    names = stage.classes.names
    pixels = np.concatenate([scene.annotation.ravel() for scene in decoded])
    return {names[c] if c < len(names) else "ignored": int((pixels == c).sum()) for c in np.unique(pixels)}


class TestCityscapesValues:
    IDS = np.array([[0, 10], [13, 255]], np.uint8)  # trainIds: road, sky, car, ignored

    def test_an_explicit_table_of_train_ids_is_taken(self, tmp_path):
        config = scenes(tmp_path / "set", [self.IDS])
        wanted = {"road": 1, "sky": 1, "car": 1, "ignored": 1}
        for table in ("cityscapes_trainids", "acdc"):
            assert found_classes(replace(config, classes=table)) == wanted
        by_ids = scenes(tmp_path / "ids", [np.array([[7, 23], [26, 0]], np.uint8)])
        assert found_classes(replace(by_ids, classes="cityscapes")) == wanted
        before = Scenes(replace(config, classes="cityscapes")).identity()
        assert Scenes(replace(config, classes="cityscapes_trainids")).identity() != before

    def test_what_the_files_are_called_says_more(self, tmp_path):
        for ending, values in (
            ("labelTrainIds", self.IDS),
            ("labelIds", np.array([[7, 23], [26, 0]], np.uint8)),
        ):
            config = scenes(tmp_path / ending, [values])
            label = tmp_path / ending / "labels" / "s0.png"
            label.rename(label.with_name(f"s0_gtFine_{ending}.png"))
            for table in ("cityscapes", "cityscapes_trainids"):
                assert found_classes(replace(config, classes=table)) == {
                    "road": 1,
                    "sky": 1,
                    "car": 1,
                    "ignored": 1,
                }


class TestMasks:
    TABLE = "0,background,0,0,0\n1,crack,255,255,255\n"
    MASK = np.array([[0, 0, 255]], np.uint8)

    @pytest.mark.parametrize("colours", [False, True])
    def test_black_and_white_are_colours_where_they_are_no_values(self, tmp_path, colours):
        mask = np.repeat(self.MASK[..., None], 3, 2) if colours else self.MASK
        config = scenes(tmp_path / "set", [mask, np.zeros_like(mask)], self.TABLE)
        assert found_classes(config) == {"background": 5, "crack": 1}
        assert "0 background, 255 crack" in " ".join(Scenes(config).notes())

    def test_values_stay_values(self, tmp_path):
        maps = [self.MASK, np.array([[0, 1, 255]], np.uint8)]  # 255: ignored
        config = scenes(tmp_path / "set", maps, self.TABLE)
        assert found_classes(config) == {"background": 3, "crack": 1, "ignored": 2}
        assert Scenes(config).notes() == () and Scenes(config).source().reading == Scenes(config).classes
        plain = scenes(tmp_path / "plain", [self.MASK], "0,background,0,0,0\n1,crack,200,0,0\n")
        assert found_classes(plain) == {"background": 2, "ignored": 1}

    def test_a_class_without_one_pixel_is_said(self, tmp_path):
        table = ClassTable("own", ("background", "crack"), ((0, 0, 0), (9, 0, 0)), (0, 1), (0, 1))
        fit = FitSegmenter(classes=table)
        config = scenes(tmp_path / "set", [self.MASK], "0,background,0,0,0\n1,crack,200,0,0\n")
        stage = Scenes(config)
        (shard,) = stage.plan({})
        rows = stage.open(WorkContext("cpu")).run(shard, ())
        file = InputFile("source", "d", None, shard)
        loaded = load_scenes([file], lambda _: rows, (8, 8), 2)
        metrics = {"pairs": 0, "images": 9}
        (sentence,) = [w for w in fit._warnings(metrics, loaded) if "crack" in w]
        assert "'crack' has not one pixel in the 1 source scenes" in sentence
        both = scenes(
            tmp_path / "both", [np.array([[0, 1]], np.uint8)], "0,background,0,0,0\n1,crack,200,0,0\n"
        )
        rows = Scenes(both).open(WorkContext("cpu")).run(*Scenes(both).plan({}), ())
        loaded = load_scenes([replace(file, digest="e")], lambda _: rows, (8, 8), 2)
        assert not [w for w in fit._warnings(metrics, loaded) if "crack" in w]

    def test_scenes_without_truth_need_no_class_table(self, tmp_path):
        scenes(tmp_path / "hazy", [self.MASK])
        source = Scenes(SceneConfig(str(tmp_path / "hazy"), labels="")).source()
        assert len(source.items) == 1 and not source.labelled
        with pytest.raises(DataError, match="have no class table"):
            Scenes(SceneConfig(str(tmp_path / "hazy"))).source()
