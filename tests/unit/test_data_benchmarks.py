"""Benchmark folders, export trees, datasets and arrays."""

import csv
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.config import DataConfig
from diffadapt.data.dataset import UNLABELLED, load_arrays
from diffadapt.data.export import safe_key, write_tree
from diffadapt.data.image import decode, encode_jpeg, encode_png
from diffadapt.data.imagenet import open_imagenet_c, open_imagenet_val, open_imagenet_w, pair_by_path
from diffadapt.data.source import open_source

WNIDS = ("n01440764", "n01443537", "n01484850")


def picture(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def imagenet(root: Path, per_class: int = 2, suffix: str = ".JPEG") -> None:
    for c, wnid in enumerate(WNIDS):
        (root / wnid).mkdir(parents=True)
        for i in range(per_class):
            data = encode_jpeg(picture(10 * c + i)) if suffix == ".JPEG" else encode_png(picture(10 * c + i))
            (root / wnid / f"ILSVRC2012_val_{10 * c + i:08d}{suffix}").write_bytes(data)


def test_imagenet_layouts(tmp_path):
    imagenet(tmp_path / "c" / "fog" / "5")
    imagenet(tmp_path / "grouped" / "weather" / "fog" / "5")
    imagenet(tmp_path / "w" / "val")
    imagenet(tmp_path / "plain")
    sources = [
        open_imagenet_c(DataConfig(str(tmp_path / "c")), "fog", 5, partial=True),
        open_imagenet_c(DataConfig(str(tmp_path / "grouped")), "fog", 5, partial=True),
        open_imagenet_w(DataConfig(str(tmp_path / "w")), partial=True),
        open_imagenet_w(DataConfig(str(tmp_path / "plain")), partial=True),
        open_imagenet_val(DataConfig(str(tmp_path / "plain")), partial=True),
    ]
    assert [s.name for s in sources] == [
        "imagenet-c-fog-5",
        "imagenet-c-fog-5",
        "imagenet-w",
        "imagenet-w",
        "imagenet-val",
    ]
    for source in sources:
        assert source.class_names == WNIDS and [i.label for i in source.items] == [0, 0, 1, 1, 2, 2]
        assert source.items[0].key == f"{WNIDS[0]}/ILSVRC2012_val_00000000.JPEG"
    limited = open_imagenet_c(DataConfig(str(tmp_path / "c"), limit_per_class=1), "fog", 5, partial=True)
    assert len(limited.items) == 3


def test_incomplete_or_missing_benchmarks(tmp_path):
    imagenet(tmp_path / "c" / "fog" / "5")
    with pytest.raises(DataError, match="6 images in 3 classes.*50,000.*1,000"):
        open_imagenet_c(DataConfig(str(tmp_path / "c")), "fog", 5)
    with pytest.raises(DataError, match="snow/5"):
        open_imagenet_c(DataConfig(str(tmp_path / "c")), "snow", 5, partial=True)
    with pytest.raises(DataError, match="mean 'snow'"):
        open_imagenet_c(DataConfig(str(tmp_path / "c")), "snwo", 5)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(encode_png(picture(0)))
    with pytest.raises(DataError, match="class folders"):
        open_imagenet_val(DataConfig(str(tmp_path / "flat")), partial=True)


def test_a_class_list_gives_a_partial_copy_its_true_labels(tmp_path):
    imagenet(tmp_path / "val")
    listed = tmp_path / "wnids.txt"
    listed.write_text("\n".join(["n00000001", *WNIDS, "n09999999"]))
    with pytest.raises(DataError, match="lacks 'n00000001', 'n09999999'"):
        open_imagenet_val(DataConfig(str(tmp_path), classes=str(listed)))
    source = open_imagenet_val(DataConfig(str(tmp_path), classes=str(listed)), partial=True)
    assert [i.label for i in source.items] == [1, 1, 2, 2, 3, 3] and len(source.class_names) == 5


def test_pairs_are_made_by_path_not_by_position(tmp_path):
    imagenet(tmp_path / "original")
    imagenet(tmp_path / "projected", suffix=".png")
    original, projected = (open_source(DataConfig(str(tmp_path / n))) for n in ("original", "projected"))
    shuffled = replace(projected, items=projected.items[::-1])
    assert pair_by_path(original, shuffled) == [
        (i.key, i.key.replace(".JPEG", ".png")) for i in original.items
    ]
    fewer = replace(projected, items=projected.items[1:])
    for a, b, lacking in ((original, fewer, "projected lacks"), (fewer, original, "projected lacks")):
        with pytest.raises(DataError, match=f"{lacking}.*{WNIDS[0]}/ILSVRC2012_val_00000000"):
            pair_by_path(a, b)
    wrong = replace(projected, items=tuple(replace(i, label=0) for i in projected.items))
    with pytest.raises(DataError, match="another label"):
        pair_by_path(original, wrong)


def rows() -> list[tuple[str, int | None, bytes]]:
    return [
        ("cat/a.png", 0, encode_png(picture(0))),
        ("dog/b.png", 1, encode_jpeg(picture(1))),
        ("more/c", 1, encode_png(picture(2))),
    ]


def test_imagefolder_tree_reads_back(tmp_path):
    assert write_tree(rows(), str(tmp_path / "out"), class_names=("cat", "dog")) == 3
    source = open_source(DataConfig(str(tmp_path / "out")))
    assert [(i.key, i.label) for i in source.items] == [
        ("cat/a.png", 0),
        ("dog/b.jpg", 1),
        ("dog/more__c.png", 1),
    ]
    assert np.array_equal(source.image("cat/a.png", 3, None), picture(0))
    torchvision = pytest.importorskip("torchvision")
    folder = torchvision.datasets.ImageFolder(str(tmp_path / "out"))
    assert folder.classes == ["cat", "dog"] and [label for _, label in folder.samples] == [0, 1, 1]


def test_flat_tree_has_a_table_and_works_on_object_stores():
    write_tree(rows(), "memory://flat-out", layout="flat", class_names=("cat", "dog"))
    fs = fsspec.filesystem("memory")
    table = list(csv.reader(fs.cat_file("/flat-out/labels.csv").decode().splitlines()))
    assert table == [
        ["file", "label", "class"],
        ["cat__a.png", "0", "cat"],
        ["dog__b.jpg", "1", "dog"],
        ["more__c.png", "1", "dog"],
    ]
    assert np.array_equal(decode(fs.cat_file("/flat-out/cat__a.png"), 3, "k"), picture(0))
    fs.rm("/flat-out", recursive=True)
    write_tree([("x.png", None, encode_png(picture(0)))], "memory://flat-out", layout="flat")
    assert fs.cat_file("/flat-out/labels.csv").decode().splitlines()[1] == "x.png,,"


def test_imagenet_c_syn_keeps_relative_paths(tmp_path):
    key = f"fog/5/{WNIDS[0]}/ILSVRC2012_val_00000293.JPEG"
    write_tree([(key, 0, encode_jpeg(picture(0)))], str(tmp_path / "out"), layout="imagenet-c-syn")
    assert (tmp_path / "out" / key).read_bytes() == encode_jpeg(picture(0))
    write_tree([(key, 0, encode_png(picture(0)))], str(tmp_path / "png"), layout="imagenet-c-syn")
    assert (tmp_path / "png" / key.replace(".JPEG", ".png")).is_file()
    for bad in ("fog/6/n1/a.JPEG", "mist/5/n1/a.JPEG", "fog/5/a.JPEG"):
        with pytest.raises(DataError, match="does not fit"):
            write_tree([(bad, 0, encode_png(picture(0)))], str(tmp_path / "bad"), layout="imagenet-c-syn")


@pytest.mark.parametrize(
    "key",
    [
        "../a.png",
        "a/../../b.png",
        "/etc/a.png",
        "C:/a.png",
        "c:a.png",
        "a\\b.png",
        "a\0.png",
        "",
        "a//b.png",
        "./a.png",
        "a\n.png",
        "..",
    ],
)
@pytest.mark.parametrize("layout", ["imagefolder", "imagenet-c-syn", "flat"])
def test_keys_cannot_leave_the_folder(tmp_path, key, layout):
    with pytest.raises(DataError):
        write_tree(
            [(key, 0, encode_png(picture(0)))], str(tmp_path / "out"), layout=layout, class_names=("cat",)
        )
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_ordinary_keys_are_safe():
    for key in ("a.png", "a/b c/ü-1.JPEG", "..a/b..png", "C/d.png"):
        assert safe_key(key) == key


def test_other_refusals_of_export(tmp_path):
    one = ("a.png", 0, encode_png(picture(0)))
    with pytest.raises(DataError, match="both"):
        write_tree(
            [("x/y.png", 0, one[2]), ("x__y.png", 0, one[2])], str(tmp_path / "a"), class_names=("cat",)
        )
    with pytest.raises(DataError, match="class names"):
        write_tree([("a.png", None, one[2])], str(tmp_path / "b"), class_names=("cat",))
    with pytest.raises(DataError):
        write_tree([one], str(tmp_path / "c"), class_names=("../cat",))
    with pytest.raises(ItemError, match="a.png"):
        write_tree([("a.png", 0, b"not an image")], str(tmp_path / "d"), class_names=("cat",))
    with pytest.raises(DataError, match="layout"):
        write_tree([one], str(tmp_path / "e"), layout="tar")  # type: ignore[arg-type]
    write_tree([one], str(tmp_path / "f"), class_names=("cat",))
    with pytest.raises(DataError, match="already holds"):
        write_tree([one], str(tmp_path / "f"), class_names=("cat",))
    assert write_tree([one], str(tmp_path / "f"), class_names=("cat",), overwrite=True) == 1


def damaged(tmp_path: Path) -> DataConfig:
    imagenet(tmp_path / "set", per_class=4)
    first = tmp_path / "set" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG"
    first.write_bytes(first.read_bytes()[:200])
    (tmp_path / "set" / WNIDS[2] / "zero.png").write_bytes(b"")
    return DataConfig(str(tmp_path / "set"))


def test_load_arrays_sets_unreadable_images_apart(tmp_path):
    source = open_source(damaged(tmp_path))
    loaded = load_arrays(source, 3, 8)
    assert loaded.images.shape == (11, 8, 8, 3) and loaded.images.dtype == np.uint8
    assert [f.key for f in loaded.failures] == [
        f"{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG",
        f"{WNIDS[2]}/zero.png",
    ]
    assert "truncated" in loaded.failures[0].reason.lower() and "empty" in loaded.failures[1].reason
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    for key, image, label in zip(loaded.keys, loaded.images, loaded.labels, strict=True):
        assert np.array_equal(image, source.image(key, 3, 8)) and source.labels[key] == label
    one = load_arrays(source, 3, 8, readers=1)
    assert one.keys == loaded.keys and np.array_equal(one.images, loaded.images)


def test_load_arrays_refuses_mixed_sizes_and_nothing(tmp_path):
    for side in (8, 9):
        (tmp_path / f"{side}.png").write_bytes(encode_png(picture(0, side)))
    source = open_source(DataConfig(str(tmp_path)))
    with pytest.raises(DataError, match="differ in size"):
        load_arrays(source, 3, None)
    loaded = load_arrays(source, 1, 8)
    assert loaded.images.shape == (2, 8, 8, 1) and loaded.labels.tolist() == [UNLABELLED] * 2
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="8.png"):
        load_arrays(open_source(DataConfig(str(tmp_path))), 3, 8)


def test_digits_load_whole():
    loaded = load_arrays(open_source(DataConfig("embedded:digits", split="test")), 1, 16)
    assert loaded.images.shape == (600, 16, 16, 1) and loaded.failures == ()
