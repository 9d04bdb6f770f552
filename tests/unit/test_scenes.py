"""Class tables, label files of every kind, painting, and a folder of one's own with all that can be wrong in
it."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffadapt.core.artifact import IGNORED, Rows, Shard, scene_table
from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.core.leniency import lenient
from diffadapt.core.stage import WorkContext
from diffadapt.data.image import encode_jpeg, encode_png
from diffadapt.data.scenes.classes import builtin, class_table, read_class_table, table_names
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.label_maps import read_label_map, warn_unknown
from diffadapt.data.scenes.palettes import check_palette, paint
from diffadapt.data.scenes.resize import resize_image, resize_nearest, scale_objects
from diffadapt.data.scenes.rows import decode_colours, decode_scenes
from diffadapt.data.scenes.table import ClassTable
from diffadapt.stages.scenes import Scenes
from tests.scenekit import save

TABLE = ClassTable(
    "mine",
    ("road", "car"),
    ((128, 64, 128), (0, 0, 142)),
    (1, 7, 9),
    (0, 1, IGNORED),
    (),
    ((128, 64, 128), (0, 0, 142), (9, 9, 9)),
)
CSV = "value,name,red,green,blue\n1,road,128,64,128\n7,car,0,0,142\n9,ignore,9,9,9\n"
IDS = np.array([[1, 7, 9], [7, 1, 255]], np.uint8)
CLASSES = [[0, 1, IGNORED], [1, 0, IGNORED]]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and 20 < len(text) < 420 and text.rstrip().endswith((".", "?")), text
    return text


class TestClassTables:
    @pytest.mark.parametrize("name", table_names())
    def test_built_in_tables_hold_together(self, name):
        table = builtin(name)
        assert table.name == name and len(table) == len(table.names) == len(table.colours) == len(
            set(table.names)
        )
        assert len(table.values) == len(set(table.values)) == len(table.classes) == len(table.codes)
        assert set(table.classes) - {IGNORED} == set(range(len(table))) and len(table.ade) == len(table)
        assert (
            from_dict(ClassTable, json.loads(json.dumps(to_dict(table)))) == table
            and pickle.loads(pickle.dumps(table)) == table
            and hash(table)
        )
        for palette in ("own", "cityscapes", "ade20k"):
            check_palette(table, palette)

    def test_a_name_is_no_part_of_an_identity(self):
        assert (
            to_dict(replace(TABLE, name="x"), identity_only=True)
            == to_dict(TABLE, identity_only=True)
            != to_dict(builtin("camvid"), identity_only=True)
        )

    def test_unknown_names_are_refused_with_the_nearest(self):
        with pytest.raises(DataError, match="Did you mean 'camvid'"):
            builtin("camvit")
        with pytest.raises(DataError, match="Did you mean 'cityscapes'") as error:
            class_table(SceneConfig("x", classes="cityscape"))
        sentence(error.value)

    def test_a_file_is_read_with_and_without_a_header(self, tmp_path):
        for text in (
            CSV,
            CSV.split("\n", 1)[1],
            "# mine\n" + CSV,
            "name,blue,green,red,value\nroad,128,64,128,1\ncar,142,0,0,7\nIgnore,9,9,9,9\n",
        ):
            (tmp_path / "mine.csv").write_text(text)
            assert read_class_table(str(tmp_path / "mine.csv")) == TABLE

    def test_rows_of_one_name_are_one_class(self, tmp_path):
        file = tmp_path / "merged.csv"
        file.write_text("3,car,0,0,142,20\n4,road,128,64,128,6\n5,car,0,0,70,20\n")
        table = read_class_table(str(file))
        assert (
            table.names == ("car", "road")
            and table.values == (3, 4, 5)
            and table.classes == (0, 1, 0)
            and table.ade == (20, 6)
        )
        truck = encode_png(np.array([[[0, 0, 70], [0, 0, 142]]], np.uint8))
        assert read_label_map(truck, table, "x").classes.tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("value,name,red,green\n1,road,1,2", "no column 'blue'"),
            ("value,name,red,green,blue,hue\n", "column 'hue'"),
            ("1,road,1,2\n", "Line 1 .* has no blue"),
            ("1,road,1,2,3\n1,car,4,5,6\n", "Line 2 .* the value 1 a second time"),
            ("1,road,1,2,256\n", "blue is '256'"),
            ("-1,road,1,2,3\n", "the value is '-1'"),
            ("one,road,1,2,3\n", "the value is 'one'"),
            ("1,ignore,1,2,3\n", "has 0 classes"),
            ("1,,1,2,3\n", "has no name"),
            ("1,road,1,2,3,150\n", "ade is '150'"),
            ("".join(f"{i},c{i},1,2,3\n" for i in range(255)), "has 255 classes"),
        ],
    )
    def test_mistakes_in_a_file_are_named(self, tmp_path, text, said):
        file = tmp_path / "mine.csv"
        file.write_text(text)
        with pytest.raises(DataError, match=said) as error:
            read_class_table(str(file))
        sentence(error.value)

    def test_a_file_that_is_not_text(self, tmp_path):
        (tmp_path / "mine.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
        with pytest.raises(DataError, match="is no text in UTF-8"):
            read_class_table(str(tmp_path / "mine.csv"))


class TestLabelMaps:
    @pytest.mark.parametrize(
        "data",
        [
            encoded(Image.fromarray(IDS)),
            encoded(Image.fromarray(IDS.astype(np.uint16))),
            encoded(Image.fromarray(IDS), "TIFF"),
            encoded(Image.merge("RGB", [Image.fromarray(IDS)] * 3)),
            encoded(Image.merge("LA", [Image.fromarray(IDS), Image.new("L", (3, 2), 255)])),
            encoded(Image.merge("RGBA", [*[Image.fromarray(IDS)] * 3, Image.new("L", (3, 2), 255)])),
        ],
        ids=[
            "grey",
            "16 bits",
            "tiff",
            "RGB with equal channels",
            "grey and alpha",
            "RGBA with equal channels",
        ],
    )
    def test_values(self, data):
        found = read_label_map(data, TABLE, "x")
        assert found.classes.tolist() == CLASSES and found.classes.dtype == np.uint8 and found.unknown == ()

    @pytest.mark.parametrize("transparent", [False, True])
    def test_a_palette_counts_by_its_index(self, transparent):
        image = Image.fromarray(IDS)
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
        data = encoded(image, transparency=bytes(range(256))) if transparent else encoded(image)
        assert Image.open(io.BytesIO(data)).mode == "P"
        assert read_label_map(data, TABLE, "x").classes.tolist() == CLASSES

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_small_palettes_and_grey_files_of_few_bits(self, bits):
        values = np.arange(6, dtype=np.uint8).reshape(2, 3) % min(2**bits, 4)
        table = ClassTable("few", ("a", "b", "c", "d"), ((1, 1, 1),) * 4, (0, 1, 2, 3), (0, 1, 2, 3))
        image = Image.fromarray(values)
        image.putpalette([9, 9, 9] * 4)
        assert read_label_map(encoded(image, bits=bits), table, "x").classes.tolist() == values.tolist()
        assert read_label_map(grey_png(values, bits), table, "x").classes.tolist() == values.tolist()

    def test_colours(self):
        pixels = np.array(
            [[[128, 64, 128], [0, 0, 142], [9, 9, 9]], [[0, 0, 0], [1, 2, 3], [255, 255, 255]]], np.uint8
        )
        found = read_label_map(encode_png(pixels), TABLE, "x")
        assert found.classes.tolist() == [[0, 1, IGNORED], [IGNORED] * 3] and found.unknown == ((1, 2, 3),)
        assert "the colour (1, 2, 3), which" in sentence(DataError(warn_unknown("x", found.unknown, TABLE)))
        alpha = np.dstack([pixels, np.array([[255, 0, 255], [255, 255, 255]], np.uint8)])
        assert read_label_map(encoded(Image.fromarray(alpha)), TABLE, "x").classes.tolist() == [
            [0, IGNORED, IGNORED],
            [IGNORED] * 3,
        ]
        grey = np.full((2, 2, 3), 70, np.uint8)
        assert read_label_map(encode_png(grey), builtin("cityscapes"), "x").classes.tolist() == [
            [2, 2],
            [2, 2],
        ], "buildings, not the value 70"

    def test_unknown_values_are_ignored_and_named(self):
        found = read_label_map(encode_png(np.array([[1, 3, 200, 255]], np.uint8)), TABLE, "a.png")
        assert found.classes.tolist() == [[0, IGNORED, IGNORED, IGNORED]] and found.unknown == (3, 200)
        assert sentence(DataError(warn_unknown("a.png", found.unknown, TABLE))).startswith(
            "The label map a.png holds the values 3, 200,"
        )

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "is empty"),
            (b"no picture", "no image format"),
            (
                encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)))[:900],
                "not a readable image",
            ),
            (encode_jpeg(np.zeros((8, 8), np.uint8)), "is a JPEG"),
            (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "the kind F"),
            (encoded(Image.fromarray(np.full((4, 4), -3, np.int32)), "TIFF"), "outside 0..65535"),
        ],
        ids=["empty", "text", "truncated", "jpeg", "float", "negative"],
    )
    def test_what_is_no_label_map_is_said(self, data, said):
        with pytest.raises(ItemError, match=said) as error:
            read_label_map(data, TABLE, "a.png")
        assert "a.png" in sentence(error.value)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of fewer than eight bits a pixel, which Pillow cannot write: chunk by chunk."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b""
    for row in values:
        text = "".join(format(v, f"0{bits}b") for v in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class TestPainting:
    def test_own_colours_and_void(self):
        painted = paint(np.array([[0, 1, 2, IGNORED]], np.uint8), TABLE)
        assert painted.tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0], [0, 0, 0]]]

    def test_what_a_palette_lacks_is_said_beforehand(self):
        check_palette(TABLE, "cityscapes")
        with pytest.raises(RecipeError, match="says nothing of ADE20K's colours") as error:
            check_palette(TABLE, "ade20k")
        sentence(error.value)
        with pytest.raises(RecipeError, match="'canoe' .* has no colour among Cityscapes'") as error:
            check_palette(replace(TABLE, names=("road", "canoe")), "cityscapes")
        sentence(error.value)

    def test_camvid_in_the_colours_of_cityscapes(self):
        camvid, city = (
            builtin("camvid"),
            dict(zip(builtin("cityscapes").names, builtin("cityscapes").colours, strict=True)),
        )
        painted = paint(np.arange(11, dtype=np.uint8)[None], camvid, "cityscapes")[0]
        assert (
            tuple(painted[camvid.names.index("Pavement")]) == city["sidewalk"]
            and tuple(painted[camvid.names.index("Sky")]) == city["sky"]
        )


class TestSizes:
    def test_images_are_averaged_and_labels_are_not_mixed(self):
        rng = np.random.default_rng(0)
        image, labels = (
            rng.integers(0, 256, (6, 8, 3), np.uint8),
            rng.choice(np.array([0, 9, 255], np.uint8), (6, 8)),
        )
        half = image.reshape(3, 2, 4, 2, 3).mean((1, 3))
        assert np.abs(resize_image(image, (3, 4)) - half).max() <= 1, "rounded once a side"
        assert resize_image(image, (6, 8)) is image and resize_image(image, (13, 5)).shape == (13, 5, 3)
        for size in ((3, 4), (7, 5), (12, 16), (1, 1)):
            expected = np.asarray(
                Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
            )
            assert np.array_equal(resize_nearest(labels, size), expected)

    def test_boxes_follow(self):
        found = scale_objects(
            [{"category": 1, "bbox": [2.0, 3.0, 4.0, 6.0], "crowd": False}], (6, 8), (12, 4)
        )
        assert found == [{"category": 1, "bbox": [1.0, 6.0, 2.0, 12.0], "crowd": False}]
        assert scale_objects(None, (6, 8), (3, 4)) is None


def folder(root, names=("a/one", "a/two", "b/three"), size=(5, 7)):
    root.mkdir(exist_ok=True)
    (root / "classes.csv").write_text(CSV)
    rng = np.random.default_rng(0)
    for name in names:
        save(root / f"images/{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        save(root / f"labels/{name}.png", rng.choice(np.array([1, 7, 9], np.uint8), size))
    return SceneConfig(str(root))


def read(config: SceneConfig) -> Rows:
    stage = Scenes(config)
    (shard,) = stage.plan({})
    return stage.open(WorkContext("cpu")).run(shard, ())


class TestFolder:
    def test_rows(self, tmp_path):
        rows = read(folder(tmp_path))
        assert (
            rows.column("key") == ["source/0/a/one", "source/0/a/two", "source/0/b/three"]
            and not rows.failures
            and not rows.warnings
        )
        assert rows.table.schema == scene_table([], [], []).schema
        scenes, failures = decode_scenes(rows, colours=True)
        assert failures == [] and scenes[0].colours is None and scenes[0].objects is None
        for scene in scenes:
            name = scene.key.removeprefix("source/0/")
            values = np.asarray(Image.open(tmp_path / f"labels/{name}.png"))
            assert np.array_equal(scene.image, np.asarray(Image.open(tmp_path / f"images/{name}.png")))
            assert np.array_equal(scene.annotation, np.select([values == 1, values == 7], [0, 1], IGNORED))
        assert decode_scenes(rows, annotation=False)[0][0].annotation is None
        assert rows.column("image")[0]["bytes"] == (tmp_path / "images/a/one.png").read_bytes(), (
            "images as they lie on disk"
        )

    def test_shards_limits_and_sizes(self, tmp_path):
        config = folder(tmp_path, [f"{i:02d}" for i in range(10)])
        shards = Scenes(replace(config, block=4), "target").plan({})
        assert [(s.key, s.items) for s in shards] == [("target-0", 4), ("target-4", 4), ("target-8", 2)]
        assert shards[1].params == {"group": "target/0", "start": 4, "stop": 8}
        assert [i.key for i in Scenes(replace(config, limit=4)).source().items] == ["00", "02", "05", "07"]
        (scene, *_), _ = decode_scenes(read(replace(config, size=(3, 9))))
        assert scene.image.shape == (3, 9, 3) and scene.annotation.shape == (3, 9)
        save(tmp_path / "images/03.png", np.zeros((4, 4, 3), np.uint8))
        assert len(Scenes(replace(config, only_size=(5, 7), block=1)).plan({})) == 9
        with pytest.raises(DataError, match="No image .* is 9 x 9 pixels"):
            Scenes(replace(config, only_size=(9, 9))).plan({})
        for wrong in ({"size": (3, 0)}, {"only_size": (-1, 2)}, {"limit": 0}):
            with pytest.raises(RecipeError, match=next(iter(wrong))) as error:
                Scenes(replace(config, **wrong)).plan({})
            sentence(error.value)

    def test_the_place_does_not_count_but_the_content_does(self, tmp_path):
        here, there = folder(tmp_path / "here_"), folder(tmp_path / "there")
        for mode in ("content", "size"):
            assert (
                Scenes(replace(here, fingerprint=mode)).identity()
                == Scenes(replace(there, fingerprint=mode)).identity()
            )
        assert str(tmp_path) not in json.dumps(Scenes(here).identity())
        before = Scenes(there).identity()
        changed = [replace(there, size=(2, 2)), replace(there, limit=2), replace(there, labels="")]
        assert len({json.dumps(Scenes(c).identity(), sort_keys=True) for c in [there, *changed]}) == 4
        save(tmp_path / "there/labels/a/one.png", np.full((5, 7), 7, np.uint8))
        (tmp_path / "there").rename(tmp_path / "moved")
        assert Scenes(SceneConfig(str(tmp_path / "moved"), fingerprint="content")).identity() != before

    @pytest.mark.parametrize(
        "endings",
        [
            ("_leftImg8bit", "_gtFine_labelIds"),
            ("", "_mask"),
            ("_rgb", "_labelTrainIds"),
            ("_L_img", "_L_img_label"),
        ],
    )
    def test_the_usual_endings_of_names(self, tmp_path, endings):
        config = folder(tmp_path)
        for kind, ending in zip(("images", "labels"), endings, strict=True):
            for file in sorted((tmp_path / kind).rglob("*.png")):
                file.rename(file.with_name(file.stem + ending + ".png"))
        rows = read(config)
        assert (
            len(rows) == 3
            and not rows.failures
            and [k.removeprefix("source/0/").split("_")[0] for k in rows.column("key")]
            == ["a/one", "a/two", "b/three"]
        )

    def test_images_without_labels_and_labels_without_images(self, tmp_path):
        config = folder(tmp_path)
        (tmp_path / "labels/a/two.png").unlink()
        with pytest.raises(DataError, match="1 image without a label map, such as 'a/two.png': ") as error:
            Scenes(config).plan({})
        sentence(error.value)
        rows = read(replace(config, partial=True))
        assert (
            len(rows) == 2
            and [f.key for f in rows.failures] == ["source/0/a/two"]
            and "has no label map" in sentence(ItemError(rows.failures[0].reason))
        )
        rows = read(replace(config, labels=""))
        assert len(rows) == 3 and rows.column("annotation") == [None] * 3
        (tmp_path / "images/a/two.png").unlink()
        (tmp_path / "images/b/three.png").unlink()
        with pytest.raises(DataError, match="1 label map without an image, such as 'b/three.png'"):
            Scenes(replace(config, block=7)).plan({})
        assert len(read(replace(config, partial=True, block=7))) == 1

    def test_bad_files_are_set_apart_one_by_one(self, tmp_path):
        config = folder(
            tmp_path,
            [
                "good",
                "other_size",
                "broken_image",
                "broken_label",
                "unknown",
                "grey",
                "deep",
                "jpeg",
                "palette",
            ],
        )
        save(tmp_path / "labels/other_size.png", np.ones((5, 6), np.uint8))
        (tmp_path / "images/broken_image.png").write_bytes((tmp_path / "images/good.png").read_bytes()[:50])
        (tmp_path / "labels/broken_label.png").write_bytes(b"x")
        save(tmp_path / "labels/unknown.png", np.full((5, 7), 42, np.uint8))
        save(tmp_path / "images/grey.png", np.zeros((5, 7), np.uint8))
        save(tmp_path / "labels/deep.png", np.full((5, 7), 7, np.uint16))
        (tmp_path / "images/jpeg.png").write_bytes(encode_jpeg(np.zeros((5, 7, 3), np.uint8)))
        image = Image.fromarray(np.full((5, 7), 7, np.uint8))
        image.putpalette([3] * 768)
        (tmp_path / "labels/palette.png").write_bytes(encoded(image, transparency=bytes(256)))
        rows = read(config)
        scenes, failures = decode_scenes(rows)
        for f in failures:
            assert f.key.rpartition("/")[2] in sentence(ItemError(f.reason))
        assert sorted(f.key.rpartition("/")[2] for f in failures) == [
            "broken_image",
            "broken_label",
            "other_size",
        ]
        reasons = {f.key.rpartition("/")[2]: f.reason for f in failures}
        assert "5 x 6 pixels but its image 5 x 7" in reasons["other_size"]
        found = {s.key.rpartition("/")[2]: s for s in scenes}
        assert sorted(found) == ["deep", "good", "grey", "jpeg", "palette", "unknown"] and found[
            "grey"
        ].image.shape == (5, 7, 3)
        assert (
            (found["deep"].annotation == 1).all()
            and (found["palette"].annotation == 1).all()
            and (found["unknown"].annotation == IGNORED).all()
        )
        assert rows.warnings == [
            "The label map labels/unknown.png holds the value 42, which the class table classes does not"
            " list: such pixels are ignored, here and in other files."
        ]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"path": ""}, "is empty"),
            ({"path": "/nowhere/at/all"}, "does not exist"),
            ({"path": "nosuchprotocol://x"}, "cannot be opened"),
            ({"path": "embedded:streets"}, "the layout must be 'streets'"),
            ({"images": "pictures"}, "'pictures', which does not exist"),
            ({"images": "empty"}, "'empty', which holds no image files"),
            ({"images": "../other"}, "leads out of"),
            ({"labels": "images"}, "in one folder"),
            ({"classes": "absent.csv"}, "cannot be read"),
        ],
    )
    def test_what_cannot_be_read_is_one_sentence(self, tmp_path, change, said):
        config = folder(tmp_path / "set")
        (tmp_path / "set/empty").mkdir()
        with pytest.raises(DataError, match=said) as error:
            Scenes(replace(config, **change)).plan({})
        sentence(error.value)

    def test_two_files_of_one_scene_and_no_class_table(self, tmp_path):
        config = folder(tmp_path)
        (tmp_path / "classes.csv").unlink()
        with pytest.raises(DataError, match="have no class table") as error:
            Scenes(config).plan({})
        sentence(error.value)
        (tmp_path / "images/a/one.jpg").write_bytes(encode_jpeg(np.zeros((5, 7, 3), np.uint8)))
        with pytest.raises(DataError, match="a/one.jpg and a/one.png are both an image") as error:
            Scenes(replace(config, classes="camvid")).plan({})
        sentence(error.value)

    def test_planning_without_the_data(self):
        with lenient() as notes:
            stage = Scenes(SceneConfig("/nowhere", "cityscapes", split="val", limit=100, block=32))
            assert (
                [s.items for s in stage.plan({})] == [32, 32, 32, 4]
                and json.dumps(stage.identity())
                and len(stage.classes) == 19
            )
            with pytest.raises(DataError, match="nowhere does not exist"):
                Scenes(SceneConfig("/nowhere")).plan({})
        assert len(notes) == 1 and "does not exist" in notes[0]


class TestRows:
    def test_failures_of_earlier_stages_are_passed_on_and_maps_are_checked(self):
        image = encode_png(np.zeros((4, 6, 3), np.uint8))
        small = encode_png(np.zeros((2, 3), np.uint8))
        table = scene_table(
            ["a", "b", "c"],
            [image] * 3,
            [small, None, None],
            colours=[None, small, None],
            objects=[None, None, [{"category": 0, "bbox": [0, 0, 1, 1], "crowd": False}]],
        )
        from diffadapt.core.artifact import Failure

        scenes, failures = decode_scenes(Rows(table, [Failure("lost", "earlier")]), colours=True)
        assert [f.key for f in failures] == ["lost", "a", "b"] and [s.key for s in scenes] == ["c"]
        assert (
            "label map of a is 2 x 3 pixels but its image 4 x 6" in failures[1].reason
            and "colour map of b" in failures[2].reason
        )
        assert scenes[0].objects == [{"category": 0, "bbox": [0.0, 0.0, 1.0, 1.0], "crowd": False}]
        assert [s.key for s in decode_scenes(Rows(table), annotation=False)[0]] == ["a", "b", "c"]

    def test_colour_maps_are_composited_on_white(self):
        pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
        assert decode_colours(encoded(Image.fromarray(pixels)), "x").tolist() == [
            [[10, 20, 30], [255, 255, 255], [127, 127, 127]]
        ]
        with pytest.raises(ItemError, match="colour map of x"):
            decode_colours(b"nothing", "x")

    def test_a_stage_can_be_sent_to_another_process(self, tmp_path):
        stage = Scenes(folder(tmp_path))
        again = pickle.loads(pickle.dumps(stage))
        assert again == stage and pickle.loads(pickle.dumps(stage.source())).items == stage.source().items
        shard = Shard("k", {"group": "source/0", "start": 1, "stop": 3})
        assert again.open(WorkContext("cpu")).run(shard, ()).column("key") == [
            "source/0/a/two",
            "source/0/b/three",
        ]
