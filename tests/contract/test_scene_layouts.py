"""Every layout of scenes: official names, published counts, pairing under any order of a folder's listing,
and what is said of mistakes."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffadapt.core.artifact import IGNORED, Rows
from diffadapt.core.errors import DataError, DiffadaptError, RecipeError
from diffadapt.core.stage import WorkContext
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import published
from diffadapt.data.scenes.rle import decode_rle
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.data.scenes.scene import Scene, SceneSource
from diffadapt.data.scenes.source import open_scenes
from diffadapt.stages.scenes import Scenes
from tests.scenekit import fake_acdc, fake_cityscapes, label_ids, picture, save, train_ids

CAMVID = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "camvid_day_dusk"
SIZE = (8, 12)


def read(config: SceneConfig) -> tuple[list[Scene], Rows]:
    stage = Scenes(config)
    rows = [stage.open(WorkContext("cpu")).run(shard, ()) for shard in stage.plan({})]
    merged = Rows(
        pa.concat_tables([r.table for r in rows]),
        [f for r in rows for f in r.failures],
        [w for r in rows for w in r.warnings],
    )
    scenes, failures = decode_scenes(merged, colours=True)
    assert len(failures) == len(merged.failures)
    return scenes, merged


def pair(root: Path, image: str, label: str | None, seed: int, ids: np.ndarray | None = None) -> None:
    """One image and its label map, in trainIds unless ``ids`` are given; the image tells which label map is
    its own."""
    values = label_ids(SIZE, seed)
    save(root / image, picture(values, seed))
    if label is not None:
        save(root / label, train_ids(values) if ids is None else ids)


def cityscapes(root: Path) -> SceneConfig:
    fake_cityscapes(root, {"aachen": 3, "zurich": 2}, SIZE)
    return SceneConfig(str(root), "cityscapes")


def acdc(root: Path) -> SceneConfig:
    fake_acdc(root, {"fog": 3, "night": 2}, SIZE)
    return SceneConfig(str(root), "acdc", split="val")


def dark_zurich(root: Path) -> SceneConfig:
    for i in range(3):
        pair(
            root,
            f"rgb_anon/val/night/GOPR0356/GOPR0356_frame_{i:06d}_rgb_anon.png",
            f"gt/val/night/GOPR0356/GOPR0356_frame_{i:06d}_gt_labelTrainIds.png",
            i,
        )
    save(
        root / "gt/val/night/GOPR0356/GOPR0356_frame_000000_gt_labelColor.png", np.zeros((*SIZE, 3), np.uint8)
    )
    return SceneConfig(str(root), "dark_zurich", split="val")


def bdd100k(root: Path) -> SceneConfig:
    for i in range(3):
        pair(root, f"images/10k/val/7d{i}-e0c1c5a7.jpg", f"labels/sem_seg/masks/val/7d{i}-e0c1c5a7.png", i)
    return SceneConfig(str(root), "bdd100k", split="val")


def bdd100k_first(root: Path) -> SceneConfig:
    for i in range(3):
        pair(root, f"seg/images/val/7d{i}-e0c1c5a7.jpg", f"seg/labels/val/7d{i}-e0c1c5a7_train_id.png", i)
    return SceneConfig(str(root), "bdd100k", split="val")


def gta5(root: Path) -> SceneConfig:
    for i in range(1, 5):
        values = label_ids(SIZE, i)
        save(root / f"images/{i:05d}.png", picture(values, i))
        label = Image.fromarray(values)
        label.putpalette(np.random.default_rng(i).integers(0, 256, 768).tolist())
        (root / "labels").mkdir(exist_ok=True)
        label.save(root / f"labels/{i:05d}.png")
    return SceneConfig(str(root), "gta5", split="all")


def camvid(root: Path) -> SceneConfig:
    for split, sequences in (("train", ("0001TP", "0006R0", "0016E5")), ("test", ("0001TP", "Seq05VD"))):
        for i, sequence in enumerate(sequences):
            values = np.random.default_rng(i + len(split)).integers(0, 12, SIZE, np.uint8)
            name = f"{sequence}_{split}{i:03d}.png"
            save(root / split / name, picture(values, i))
            save(root / f"{split}annot" / name, values)
    return SceneConfig(str(root), "camvid")


def folder(root: Path) -> SceneConfig:
    for i, name in enumerate(("x/1", "x/10", "x/2", "y/1")):
        pair(root, f"images/{name}_leftImg8bit.png", f"labels/{name}_gtFine_labelTrainIds.png", i)
    return SceneConfig(str(root), "folder", classes="cityscapes")


TREES: dict[str, Callable[[Path], SceneConfig]] = {
    f.__name__: f for f in (cityscapes, acdc, dark_zurich, bdd100k, bdd100k_first, gta5, camvid, folder)
}
COUNTS = {
    "cityscapes": 5,
    "acdc": 5,
    "dark_zurich": 3,
    "bdd100k": 3,
    "bdd100k_first": 3,
    "gta5": 4,
    "camvid": 3,
    "folder": 4,
}


@pytest.mark.parametrize("name", TREES)
class TestEveryLayout:
    def test_is_read_whole(self, name, tmp_path):
        config = replace(TREES[name](tmp_path), partial=True, block=2)
        scenes, rows = read(config)
        assert (
            len(scenes) == COUNTS[name] == sum(s.items for s in Scenes(config).plan({}))
            and not rows.failures
            and not rows.warnings
        )
        keys = [s.key for s in scenes]
        assert (
            keys == sorted(keys)
            and len(set(keys)) == len(keys)
            and all(k.startswith("source/0/") for k in keys)
        )
        classes = Scenes(config).classes
        assert classes.names == builtin("camvid" if name == "camvid" else "cityscapes").names
        for scene in scenes:
            present = set(np.unique(scene.annotation).tolist())
            assert scene.image.shape == (*SIZE, 3) and scene.annotation.shape == SIZE and len(present) > 1
            assert present <= {*range(len(classes)), IGNORED}
        assert any((s.annotation == IGNORED).any() for s in scenes)

    def test_every_image_has_its_own_label_map(self, name, tmp_path):
        """Images are painted from their label maps: pixels of two classes never share a colour (up to the
        fake's noise)."""
        scenes, _ = read(replace(TREES[name](tmp_path), partial=True))
        colours = np.random.default_rng(0).integers(0, 256, (256, 3))
        lookup = {
            c: colours[[v for v, k in zip(t.values, t.classes, strict=True) if k == c]]
            for t in [builtin("camvid" if name == "camvid" else "gta5")]
            for c in set(t.classes)
        }
        for scene in scenes:
            image = scene.image.astype(int) * (2 if name == "acdc" else 1)
            for c in set(np.unique(scene.annotation).tolist()) - {IGNORED}:
                near = np.abs(image[scene.annotation == c] - lookup[c][0]).max(1)
                assert np.median(near) <= 12, "another image's labels"

    def test_the_order_of_listings_does_not_matter(self, name, tmp_path, monkeypatch):
        config = replace(TREES[name](tmp_path), partial=True)
        expected = open_scenes(config)
        for seed in range(6):
            with monkeypatch.context() as patched:
                patched.setattr(os, "scandir", shuffled_scandir(seed))
                found = open_scenes(config)
            assert found.items == expected.items and found.fingerprint == expected.fingerprint

    def test_on_another_file_system_in_any_order(self, name, tmp_path, monkeypatch):
        config = replace(TREES[name](tmp_path), partial=True, fingerprint="content")
        memory = fsspec.filesystem("memory")
        place = f"/scenes-{name}"
        memory.put(str(tmp_path) + "/", place, recursive=True)
        try:
            expected = open_scenes(config)
            find = type(memory).find
            for seed in range(3):
                with monkeypatch.context() as patched:
                    patched.setattr(
                        type(memory),
                        "find",
                        lambda self, *a, seed=seed, **k: shuffled(find(self, *a, **k), seed),
                    )
                    found = open_scenes(replace(config, path=f"memory:/{place}"))
                assert found.items == expected.items and found.fingerprint == expected.fingerprint
            scenes, rows = read(replace(config, path=f"memory:/{place}"))
            assert len(scenes) == COUNTS[name] and not rows.failures
        finally:
            memory.rm(place, recursive=True)

    def test_a_missing_label_map_is_named(self, name, tmp_path):
        config = replace(TREES[name](tmp_path), partial=True)
        victim = open_scenes(config).items[1]
        source: SceneSource = open_scenes(config)
        os.unlink(source.reader.files.paths[victim.label])
        scenes, rows = read(replace(config, block=31))
        assert [f.key for f in rows.failures] == [
            f"source/0/{victim.key}"
        ] and "has no label map" in rows.failures[0].reason
        assert f"source/0/{victim.key}" not in [s.key for s in scenes] and len(scenes) == COUNTS[name] - 1

    def test_counts_are_checked_unless_the_copy_is_partial(self, name, tmp_path):
        config = TREES[name](tmp_path)
        if name == "folder":
            assert published(config) is None
            return
        config, count = (replace(config, condition="fog"), 3) if name == "acdc" else (config, COUNTS[name])
        with pytest.raises(
            DataError,
            match=(
                rf"holds {count} images of .*, but {published(config):,} are published: unpack it fully, or"
                r" set partial"
            ),
        ):
            Scenes(config).plan({})


def shuffled_scandir(seed: int):
    scandir = os.scandir

    class Listing:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)
            random.Random(f"{seed}{path}").shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            return None

    return Listing


def shuffled(found, seed):
    items = list(found.items()) if isinstance(found, dict) else list(found)
    random.Random(seed).shuffle(items)
    return dict(items) if isinstance(found, dict) else items


def test_the_shuffled_listing_does_shuffle(tmp_path):
    for i in range(8):
        (tmp_path / str(i)).touch()
    orders = set()
    for seed in range(6):
        with shuffled_scandir(seed)(tmp_path) as entries:
            orders.add(tuple(e.name for e in entries))
    assert len(orders) > 3


class TestOfficialLayouts:
    @pytest.mark.parametrize(
        ("config", "count"),
        [
            (SceneConfig(layout="cityscapes"), 2975),
            (SceneConfig(layout="cityscapes", split="val"), 500),
            (SceneConfig(layout="cityscapes", split="test"), 1525),
            (SceneConfig(layout="acdc", condition="snow"), 400),
            (SceneConfig(layout="acdc", split="val", condition="night"), 106),
            (SceneConfig(layout="acdc", split="val"), 406),
            (SceneConfig(layout="acdc", split="test"), 2000),
            (SceneConfig(layout="gta5", split="all"), 24_966),
            (SceneConfig(layout="bdd100k"), 7000),
            (SceneConfig(layout="dark_zurich", split="val"), 50),
            (SceneConfig(layout="camvid", split="all", sequences=("0001TP",)), 124),
            (SceneConfig(layout="camvid", split="test"), 233),
            (SceneConfig(layout="camvid", sequences=("0001TP",)), None),
            (SceneConfig(), None),
        ],
    )
    def test_published_counts(self, config, count):
        assert published(config) == count

    def test_a_whole_split_of_acdc_needs_no_allowance(self, tmp_path):
        fake_acdc(tmp_path, {"night": 106}, (4, 6))
        assert (
            len(open_scenes(SceneConfig(str(tmp_path), "acdc", split="val", condition="night")).items) == 106
        )

    def test_raw_colours_of_cityscapes(self, tmp_path):
        fake_cityscapes(tmp_path / "with", {"aachen": 2}, SIZE)
        fake_cityscapes(tmp_path / "without", {"aachen": 2}, SIZE, colours=False)
        fake_cityscapes(tmp_path / "trainids", {"aachen": 2}, SIZE, colours=False, labels=("labelTrainIds",))
        given, painted, none = (
            read(SceneConfig(str(tmp_path / d), "cityscapes", partial=True))[0]
            for d in ("with", "without", "trainids")
        )
        for a, b, c in zip(given, painted, none, strict=True):
            assert np.array_equal(a.colours, b.colours) and c.colours is None
            assert np.array_equal(a.annotation, b.annotation) and np.array_equal(a.annotation, c.annotation)
            assert (a.colours[a.annotation == 0] == (128, 64, 128)).all()
        small = read(SceneConfig(str(tmp_path / "with"), "cityscapes", partial=True, size=(4, 6)))[0][0]
        assert small.image.shape == small.colours.shape == (4, 6, 3) and small.annotation.shape == (4, 6)
        assert {tuple(c) for c in small.colours.reshape(-1, 3)} <= {
            tuple(c) for c in given[0].colours.reshape(-1, 3)
        }

    def test_splits_without_truth(self, tmp_path):
        fake_cityscapes(tmp_path, {"berlin": 2}, SIZE, "test")
        fake_acdc(tmp_path, {"rain": 2}, SIZE, "test")
        for config in (
            SceneConfig(str(tmp_path), "cityscapes", split="test", partial=True),
            SceneConfig(str(tmp_path), "acdc", split="test", condition="rain", partial=True),
        ):
            scenes, rows = read(config)
            assert (
                len(scenes) == 2
                and not rows.failures
                and all(s.annotation is None and s.colours is None for s in scenes)
            )

    def test_archives_unpacked_into_folders_of_their_own(self, tmp_path):
        keys = fake_cityscapes(tmp_path, size=SIZE)
        before = open_scenes(SceneConfig(str(tmp_path), "cityscapes", partial=True)).fingerprint
        for name in ("leftImg8bit", "gtFine"):
            (tmp_path / f"{name}_trainvaltest").mkdir()
            (tmp_path / name).rename(tmp_path / f"{name}_trainvaltest" / name)
        after = open_scenes(SceneConfig(str(tmp_path), "cityscapes", partial=True))
        assert [i.key for i in after.items] == keys and after.fingerprint == before

    def test_only_the_official_size(self, tmp_path):
        fake_acdc(tmp_path, {"fog": 2}, SIZE)
        save(
            tmp_path / "rgb_anon/fog/val/GOPR0475/GOPR0475_frame_000099_rgb_anon.png",
            np.zeros((9, 12, 3), np.uint8),
        )
        save(
            tmp_path / "gt/fog/val/GOPR0475/GOPR0475_frame_000099_gt_labelTrainIds.png",
            np.zeros((9, 12), np.uint8),
        )
        config = SceneConfig(str(tmp_path), "acdc", split="val", condition="fog", partial=True)
        assert [len(open_scenes(c).items) for c in (config, replace(config, only_size=SIZE))] == [3, 2]

    def test_sequences_of_camvid(self, tmp_path):
        config = replace(camvid(tmp_path), partial=True)
        for split, sequences, count in (
            ("train", ("0006R0", "0016E5"), 2),
            ("all", ("0001TP",), 2),
            ("test", ("Seq05VD",), 1),
        ):
            (tmp_path / "val").mkdir(exist_ok=True)
            assert len(open_scenes(replace(config, split=split, sequences=sequences)).items) == count
        with pytest.raises(DataError, match="no frames of the sequences 0007"):
            open_scenes(replace(config, sequences=("0007",)))

    def test_the_splits_of_gta5(self, tmp_path):
        from scipy.io import savemat

        config = replace(gta5(tmp_path), partial=True)
        with pytest.raises(
            DataError, match="put the official split.mat or val.txt there, or use the split 'all'"
        ):
            open_scenes(replace(config, split="val"))
        savemat(
            tmp_path / "split.mat",
            {"trainIds": np.array([[1], [3]]), "valIds": np.array([[2]]), "testIds": np.array([[4]])},
        )
        keys = {
            s: [i.key for i in open_scenes(replace(config, split=s)).items] for s in ("train", "val", "test")
        }
        assert keys == {"train": ["00001", "00003"], "val": ["00002"], "test": ["00004"]}
        (tmp_path / "val.txt").write_text("00004.png\n3\n")
        assert [i.key for i in open_scenes(replace(config, split="val", limit=None)).items] == [
            "00003",
            "00004",
        ]
        (tmp_path / "of my own.txt").write_text("00004.png\n")
        own = replace(config, split="val", split_file="of my own.txt", partial=False)
        for place in ("of my own.txt", str(tmp_path / "of my own.txt"), f"file://{tmp_path}/of my own.txt"):
            for split in ("val", "all"):
                found = open_scenes(replace(own, split_file=place, split=split))
                assert [i.key for i in found.items] == ["00004"]
        (tmp_path / "split.mat").write_bytes(b"not a MATLAB file")
        with pytest.raises(DataError, match="split file of GTA5 .* cannot be read"):
            open_scenes(replace(config, split="train"))

    def test_lists_of_gta5_that_cannot_serve(self, tmp_path):
        config = replace(gta5(tmp_path), split="val", split_file="gtav_split_val.txt")
        assert published(config) == 1000 and published(replace(config, split_file="")) == 6382
        assert published(replace(config, split_file="mine.txt")) is None
        with pytest.raises(DataError, match="1,000 frames that ZoDi's authors score.*put it there") as error:
            open_scenes(config)
        assert "\n" not in str(error.value)
        list_of = tmp_path / "gtav_split_val.txt"
        for content, said in (
            (b"00002.png\n00009.png", "lacks 1 frames that gtav_split_val.txt names, such as 00009"),
            (b"00002.png", "1 images of GTA5 val, but 1,000 are published"),
            (b"", "list of frames 'gtav_split_val.txt' is empty"),
            (b"\xff\xfe\x00", "is no text"),
        ):
            list_of.write_bytes(content)
            with pytest.raises(DataError, match=said):
                open_scenes(config)
        with pytest.raises(RecipeError, match="layout 'folder' takes no list of its scenes"):
            open_scenes(SceneConfig(str(tmp_path), split_file="mine.txt"))

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (SceneConfig(layout="acdc", condition="dusk"), "has no condition 'dusk'"),
            (
                SceneConfig(layout="cityscapes", split="training"),
                "has no split 'training'.*Did you mean 'train'",
            ),
            (SceneConfig(layout="gta5", condition="night"), "has no condition 'night': leave it empty"),
            (SceneConfig(layout="streets", condition="hail"), "no condition 'hail'"),
            (SceneConfig(layout="streets", split="tests"), "no split 'tests'"),
            (SceneConfig("/data", layout="streets"), "is made, not read"),
        ],
    )
    def test_unknown_names_are_refused_before_anything_is_read(self, config, said):
        with pytest.raises(RecipeError, match=said):
            Scenes(config).plan({})

    def test_a_folder_that_is_something_else(self, tmp_path):
        (tmp_path / "leftImg8bit/train").mkdir(parents=True)
        for layout in ("cityscapes", "acdc", "dark_zurich", "bdd100k", "gta5", "camvid"):
            split = "all" if layout == "gta5" else "train"
            with pytest.raises(DataError) as error:
                Scenes(SceneConfig(str(tmp_path), layout, split=split)).plan({})
            said = str(error.value)
            assert "unpack it there, or correct the path" in said and "\n" not in said and said.endswith(".")


class TestStreets:
    def test_conditions_share_keys_and_truth(self):
        day, night = (
            read(SceneConfig("embedded:streets", "streets", split="test", condition=c, limit=4))[0]
            for c in ("", "night")
        )
        for a, b in zip(day, night, strict=True):
            assert (
                a.key == b.key
                and np.array_equal(a.annotation, b.annotation)
                and a.objects == b.objects
                and not np.array_equal(a.image, b.image)
            )
        assert np.mean([s.image.mean() for s in night]) < np.mean([s.image.mean() for s in day])
        day, night = (Scenes(SceneConfig(layout="streets", condition=c)).identity() for c in ("day", "night"))
        assert day != night and Scenes(SceneConfig(layout="streets")).identity() == day


class TestParquet:
    def table(self, path: Path, count: int = 5, **columns) -> SceneConfig:
        def png(array):
            out = io.BytesIO()
            Image.fromarray(array).save(out, "PNG")
            return out.getvalue()

        maps = [np.random.default_rng(i).integers(0, 12, SIZE, np.uint8) for i in range(count)]
        data = {
            "image": [
                {"bytes": png(picture(m, i)), "path": f"set/train/f{i}.png"} for i, m in enumerate(maps)
            ],
            "annotation": [{"bytes": png(m), "path": f"set/trainannot/f{i}.png"} for i, m in enumerate(maps)],
            "sequence": ["a", "b", "a", "b", "a"][:count],
            **columns,
        }
        pq.write_table(pa.table({k: v for k, v in data.items() if v is not None}), path, row_group_size=2)
        return SceneConfig(str(path), "parquet", classes="camvid")

    def test_rows_and_sequences(self, tmp_path):
        config = self.table(tmp_path / "day.parquet")
        scenes, rows = read(config)
        assert [s.key for s in scenes] == [f"source/0/f{i}" for i in range(5)] and not rows.failures
        assert [s.key for s in read(replace(config, sequences=("b",)))[0]] == ["source/0/f1", "source/0/f3"]
        for s in scenes:
            values = np.random.default_rng(int(s.key[-1])).integers(0, 12, SIZE, np.uint8)
            assert np.array_equal(s.annotation, np.where(values == 11, IGNORED, values))
        assert all(s.annotation is None for s in read(replace(config, labels=""))[0])
        whole = replace(config, path=str(tmp_path))
        assert len(read(whole)[0]) == 5

    def test_names_that_are_not_distinct(self, tmp_path):
        self.table(tmp_path / "a.parquet", 2)
        self.table(tmp_path / "b.parquet", 2)
        keys = [i.key for i in open_scenes(SceneConfig(str(tmp_path), "parquet", classes="camvid")).items]
        assert keys == ["a/00000000", "a/00000001", "b/00000000", "b/00000001"]

    @pytest.mark.parametrize(
        ("columns", "change", "said"),
        [
            ({"image": None}, {}, "no column 'image'"),
            ({"annotation": None}, {}, "no column 'annotation'"),
            ({"annotation": [1, 2, 3, 4, 5]}, {}, "is int64, but must be struct"),
            ({"sequence": None}, {"sequences": ("a",)}, "no column 'sequence'"),
            ({}, {"sequences": ("c",)}, "no rows of the sequences 'c'"),
            ({}, {"classes": ""}, "have no class table"),
        ],
    )
    def test_mistakes(self, tmp_path, columns, change, said):
        config = replace(self.table(tmp_path / "x.parquet", **columns), **change)
        with pytest.raises(DataError, match=said) as error:
            Scenes(config).plan({})
        assert "\n" not in str(error.value)

    def test_rows_without_truth_and_files_that_are_no_parquet(self, tmp_path):
        config = self.table(tmp_path / "x.parquet")
        table = pq.read_table(tmp_path / "x.parquet")
        truth = table.column("annotation").to_pylist()
        truth[2] = None
        pq.write_table(
            table.set_column(1, "annotation", pa.array(truth, table.schema.field("annotation").type)),
            tmp_path / "x.parquet",
        )
        with pytest.raises(DataError, match="1 images without a label map, such as 'f2'"):
            Scenes(config).plan({})
        scenes, rows = read(replace(config, partial=True))
        assert len(scenes) == 4 and [f.key for f in rows.failures] == ["source/0/f2"]
        (tmp_path / "y.parquet").write_bytes(b"PAR1 or not")
        with pytest.raises(DataError, match="not readable Parquet"):
            Scenes(replace(config, path=str(tmp_path / "y.parquet"))).plan({})

    @pytest.mark.skipif(not CAMVID.is_dir(), reason="the CamVid subset is not at hand")
    def test_camvid_day_and_dusk(self):
        config = SceneConfig(str(CAMVID / "day_train.parquet"), "parquet", classes="camvid")
        assert (
            len(open_scenes(config).items) == 85
            and len(open_scenes(replace(config, sequences=("0006R0",))).items) == 34
        )
        assert len(open_scenes(replace(config, path=str(CAMVID / "dusk_test.parquet"))).items) == 62
        (scene, *_), rows = read(replace(config, limit=2))
        assert scene.image.shape == (360, 480, 3) and not rows.failures and not rows.warnings
        sky = scene.image[scene.annotation == builtin("camvid").names.index("Sky")].mean()
        road = scene.image[scene.annotation == builtin("camvid").names.index("Road")].mean()
        assert sky > road + 50


class TestCoco:
    def data(self, root: Path, **changes) -> SceneConfig:
        for i in range(2):
            save(root / f"images/{i}.png", np.zeros((10, 20, 3), np.uint8))
        document = {
            "categories": [{"id": 7, "name": "person"}, {"id": 3, "name": "car"}],
            "images": [{"id": 40 + i, "file_name": f"{i}.png", "height": 10, "width": 20} for i in range(2)],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 40,
                    "category_id": 3,
                    "bbox": [2, 2, 4, 3],
                    "segmentation": [[2, 2, 6, 2, 6, 5, 2, 5]],
                    "iscrowd": 0,
                },
                {"id": 2, "image_id": 40, "category_id": 7, "bbox": [0, 0, 20, 8], "iscrowd": 0},
                {
                    "id": 3,
                    "image_id": 40,
                    "category_id": 7,
                    "bbox": [18, 8, 2, 2],
                    "segmentation": {"size": [10, 20], "counts": [188, 2, 8, 2]},
                    "iscrowd": 1,
                },
            ],
        }
        document.update(changes)
        (root / "instances.json").write_text(json.dumps(document))
        return SceneConfig(str(root), "coco", labels="instances.json")

    def test_objects_and_painted_maps(self, tmp_path):
        config = self.data(tmp_path)
        (first, second), rows = read(config)
        assert Scenes(config).classes.names == ("car", "person") and not rows.failures
        assert first.objects == [
            {"category": 0, "bbox": [2.0, 2.0, 6.0, 5.0], "crowd": False},
            {"category": 1, "bbox": [0.0, 0.0, 20.0, 8.0], "crowd": False},
            {"category": 1, "bbox": [18.0, 8.0, 20.0, 10.0], "crowd": True},
        ]
        expected = np.full((10, 20), IGNORED)
        expected[:8] = 1
        expected[2:6, 2:7] = 0  # Pillow fills a polygon's edge as well
        expected[8:, 18:] = 1
        assert np.array_equal(first.annotation, expected), "the small car lies on the large person"
        assert second.objects == [] and (second.annotation == IGNORED).all()

    def test_boxes_follow_a_resize_and_classes_of_ones_own(self, tmp_path):
        config = self.data(tmp_path)
        (first, _), _ = read(replace(config, size=(5, 40)))
        assert first.objects[0]["bbox"] == [4.0, 1.0, 12.0, 2.5] and first.annotation.shape == (5, 40)
        (tmp_path / "own.csv").write_text("0,Person,1,2,3\n")
        (first, _), _ = read(replace(config, classes=str(tmp_path / "own.csv")))
        assert [o["category"] for o in first.objects] == [0, 0] and set(np.unique(first.annotation)) == {
            0,
            IGNORED,
        }
        (tmp_path / "other.csv").write_text("0,lorry,1,2,3\n")
        with pytest.raises(DataError, match="No category of instances.json"):
            open_scenes(replace(config, classes=str(tmp_path / "other.csv")))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"annotations": [{"id": 1, "image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]}]},
                "annotation 1 of image 99",
            ),
            (
                {"annotations": [{"id": 1, "image_id": 40, "category_id": 9, "bbox": [0, 0, 1, 1]}]},
                "does not list its category 9",
            ),
            ({"categories": []}, "0 categories"),
            (
                {"images": [{"id": 1, "file_name": "9.png"}], "annotations": []},
                "names 1 images that do not lie in 'images', such as '9.png'",
            ),
            (
                {
                    "images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "0.png"}],
                    "annotations": [],
                },
                "lists an image twice",
            ),
            ({"images": [{"id": 1}]}, "it lacks 'file_name'"),
            ({"images": 3}, "not a COCO instances file"),
        ],
    )
    def test_mistakes_in_the_file(self, tmp_path, changes, said):
        with pytest.raises(DataError, match=said) as error:
            Scenes(self.data(tmp_path, **changes)).plan({})
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("annotation", "said"),
        [
            ({"bbox": [1, 1, 0, 4]}, "has no area"),
            ({"bbox": [1, 1]}, "no bbox of four numbers"),
            (
                {"bbox": [0, 0, 1, 1], "segmentation": {"size": [10, 20], "counts": [5]}},
                "its mask is damaged",
            ),
            (
                {"bbox": [0, 0, 1, 1], "segmentation": {"size": [10, 21], "counts": [210]}},
                "its mask is 10 x 21 pixels",
            ),
        ],
    )
    def test_a_bad_annotation_that_is_the_only_one_is_named(self, tmp_path, annotation, said):
        one = {"id": 1, "image_id": 40, "category_id": 3, **annotation}
        with pytest.raises(DataError, match=f"annotation 1 of image 0.png.*{said}") as error:
            Scenes(self.data(tmp_path, annotations=[one])).plan({})
        assert "\n" not in str(error.value)

    def test_an_image_of_another_size_than_listed(self, tmp_path):
        config = self.data(tmp_path)
        save(tmp_path / "images/1.png", np.zeros((5, 5, 3), np.uint8))
        _, rows = read(config)
        assert [f.key for f in rows.failures] == ["source/0/1"] and "its JSON says 10 x 20" in rows.failures[
            0
        ].reason

    def test_images_alone(self, tmp_path):
        scenes, _ = read(replace(self.data(tmp_path), labels=""))
        assert len(scenes) == 2 and all(s.objects is None and s.annotation is None for s in scenes)

    def test_run_length_codes_agree_with_pycocotools(self):
        mask = pytest.importorskip("pycocotools.mask")
        for seed in range(20):
            rng = np.random.default_rng(seed)
            bits = (rng.random((int(rng.integers(1, 40)), int(rng.integers(1, 40)))) < rng.random()).astype(
                np.uint8
            )
            code = mask.encode(np.asfortranarray(bits))
            assert np.array_equal(decode_rle({**code, "counts": code["counts"].decode()}), bits.astype(bool))
        for broken in (
            {"size": [2, 2], "counts": "o"},
            {"size": [2, 2], "counts": [1, 1]},
            {"size": [2, 2], "counts": [5, -1]},
        ):
            with pytest.raises(ValueError):
                decode_rle(broken)


def test_every_error_of_a_missing_place_is_the_users():
    for layout in (
        "folder",
        "parquet",
        "cityscapes",
        "acdc",
        "gta5",
        "dark_zurich",
        "bdd100k",
        "camvid",
        "coco",
    ):
        for path in ("", "/nowhere", "nosuchprotocol://x"):
            with pytest.raises(DiffadaptError) as error:
                Scenes(SceneConfig(path, layout)).plan({})  # type: ignore[arg-type]
            assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))
