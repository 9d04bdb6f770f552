"""Benchmarks of domain adaptation in the layouts of the public tools, with counts checked."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.leniency import lenient
from diffadapt.core.stage import WorkContext
from diffadapt.data import benchmarks
from diffadapt.data.benchmark_files import open_domain
from diffadapt.data.benchmarks import BENCHMARKS
from diffadapt.data.config import DataConfig
from diffadapt.data.image import decode, encode_png
from diffadapt.data.items import Source
from diffadapt.stages.images import Images
from diffadapt.systems.adapt_anything.published import note, published

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PICTURE = encode_png(np.zeros((2, 2, 3), np.uint8))


def files(root: Path, *paths: str) -> DataConfig:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PICTURE)
    return DataConfig(str(root))


def named(source: Source) -> dict[str, str]:
    return {i.key: source.class_names[i.label] for i in source.items}


def test_the_published_facts_agree_with_each_other():
    assert set(BENCHMARKS) == {"office31", "officehome", "imageclef", "visda2017", "domainnet", "digits"}
    for known in BENCHMARKS.values():
        assert known.class_names == tuple(sorted(known.class_names)) and len(known.class_names) in (
            0,
            known.classes,
        )
        assert set(known.domains) <= set(known.counts) and set(known.descriptions) == set(known.domains)
        assert all(known.test_split(d) in ("", f"{d}_test") for d in known.domains)
    assert sum(BENCHMARKS["office31"].counts.values()) == 4110 and len(BENCHMARKS["officehome"].pairs()) == 12
    domainnet = BENCHMARKS["domainnet"]
    assert sum(domainnet.counts[d] for d in domainnet.domains) == 409_832
    assert sum(domainnet.counts[domainnet.test_split(d)] for d in domainnet.domains) == 176_743
    assert (
        BENCHMARKS["visda2017"].pairs() == [("train", "validation")]
        and BENCHMARKS["visda2017"].metric == "class_mean"
    )
    layouts = set(get_args(get_type_hints(Images)["layout"]))
    assert layouts == {"plain", "imagenet-c", "imagenet-w", *BENCHMARKS}


@pytest.mark.parametrize("middle", ["", "images/"])
def test_class_folders_with_and_without_images_between(tmp_path, middle):
    config = files(
        tmp_path, *(f"webcam/{middle}{c}/frame_{i}.jpg" for c in ("mug", "back_pack") for i in range(2))
    )
    source = open_domain(config, "office31", "webcam", partial=True)
    assert source.class_names == BENCHMARKS["office31"].class_names and source.name == "office31-webcam"
    assert named(source) == {f"{c}/frame_{i}.jpg": c for c in ("mug", "back_pack") for i in range(2)}
    with pytest.raises(DataError, match="lacks 'bike'"):
        open_domain(config, "office31", "webcam")
    with pytest.raises(DataError, match="has no folder 'amazon'"):
        open_domain(config, "office31", "amazon", partial=True)


def test_counts_are_compared_with_the_published_ones(tmp_path):
    config = files(tmp_path, *(f"dslr/{c}/1.png" for c in BENCHMARKS["office31"].class_names))
    with pytest.raises(
        DataError,
        match=(
            r"Office-31's dslr under .* holds 31 images in 31 classes, but 498 in 31 are published: .*"
            r" partial true"
        ),
    ):
        open_domain(config, "office31", "dslr")
    assert len(open_domain(config, "office31", "dslr", partial=True).items) == 31
    assert (
        len(
            open_domain(
                replace(config, part=(0.0, 1.0), limit_per_class=1), "office31", "dslr", partial=True
            ).items
        )
        == 31
    )


@pytest.mark.parametrize("spelling", ["Real World", "RealWorld", "Real_World"])
def test_spellings_of_a_domain(tmp_path, spelling):
    source = open_domain(
        files(tmp_path, f"{spelling}/TV/1.jpg", f"{spelling}/Alarm_Clock/1.jpg"),
        "officehome",
        "real_world",
        partial=True,
    )
    assert (
        named(source) == {"TV/1.jpg": "TV", "Alarm_Clock/1.jpg": "Alarm_Clock"}
        and source.class_names[0] == "Alarm_Clock"
    )


def test_a_list_counts_before_folders_and_its_numbers_do_not(tmp_path):
    """Transfer-Learning-Library numbers Office-Home's classes in an order of its own, and paths may hold
    spaces."""
    config = files(tmp_path, "Art/Drill/a b 1.jpg", "Art/Bed/2.jpg", "Art/Bed/not listed.jpg")
    (tmp_path / "image_list").mkdir()
    listed = tmp_path / "image_list" / "Art.txt"
    listed.write_text("Art/Drill/a b 1.jpg 0\nArt/Bed/2.jpg 15\n")
    source = open_domain(config, "officehome", "art", partial=True)
    assert (
        named(source) == {"Art/Bed/2.jpg": "Bed", "Art/Drill/a b 1.jpg": "Drill"}
        and source.read("Art/Drill/a b 1.jpg") == PICTURE
    )
    listed.write_text(
        "/data/office home/Art/Drill/a b 1.jpg 0\nBed/2.jpg 15\n\n"
    )  # from another machine; relative to the domain
    assert named(open_domain(config, "officehome", "art", partial=True)) == named(source)
    listed.write_text("Art/Drill/a b 1.jpg 0\nArt/Bed/2.jpg 0\n")
    with pytest.raises(DataError, match="one to one"):
        open_domain(config, "officehome", "art", partial=True)
    listed.write_text("Art/Drill/a b 1.jpg\n")
    with pytest.raises(DataError, match="Line 1 of the image list"):
        open_domain(config, "officehome", "art", partial=True)
    listed.write_text("Art/Drill/gone.jpg 0\nArt/Bed/2.jpg 15\n")
    assert list(named(open_domain(config, "officehome", "art", partial=True))) == ["Art/Bed/2.jpg"]
    with pytest.raises(
        DataError, match=r"names 1 images that do not exist under .*, such as 'Art/Drill/gone.jpg'"
    ):
        open_domain(config, "officehome", "art")


def test_a_list_without_class_folders_is_numbered_by_the_published_order(tmp_path):
    config = files(tmp_path, "c/001.jpg", "c/002.jpg")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "cList.txt").write_text("c/001.jpg 11\nc/002.jpg 0\n")
    assert named(open_domain(config, "imageclef", "c", partial=True)) == {
        "c/001.jpg": "people",
        "c/002.jpg": "aeroplane",
    }
    (tmp_path / "list" / "cList.txt").write_text("c/001.jpg 12\nc/002.jpg 0\n")
    with pytest.raises(DataError, match="does not tell the class of 'c/001.jpg'"):
        open_domain(config, "imageclef", "c", partial=True)


def test_a_complete_small_benchmark_needs_no_leave(tmp_path, monkeypatch):
    """VisDA's own list files lie in the domain's folder, with paths relative to it."""
    known = replace(BENCHMARKS["visda2017"], counts={"train": 24, "validation": 12})
    monkeypatch.setitem(benchmarks.BENCHMARKS, "visda2017", known)
    config = files(
        tmp_path,
        *(f"train/{c}/{i}.png" for c in known.class_names for i in range(2)),
        *(f"validation/{c}/1.jpg" for c in known.class_names),
    )
    (tmp_path / "train" / "image_list.txt").write_text(
        "".join(f"{c}/{i}.png {n}\n" for n, c in enumerate(known.class_names) for i in range(2))
    )
    source = open_domain(config, "visda2017", "train")
    assert (
        len(source.items) == 24
        and named(source)["train/train/0.png"] == "train"
        and named(source)["train/bus/1.png"] == "bus"
    )
    assert len(open_domain(config, "visda2017", "validation").items) == 12
    files(tmp_path, "validation/bus/2.jpg")
    with pytest.raises(DataError, match="holds 13 images in 12 classes, but 12 in 12"):
        open_domain(config, "visda2017", "validation")


def test_domainnet_has_official_splits_and_one_label_order(tmp_path):
    config = files(
        tmp_path,
        *(f"{d}/{c}/{i}.jpg" for d in ("clipart", "sketch") for c in ("zebra", "bat") for i in range(3)),
        "sketch/ant/0.jpg",
    )
    (tmp_path / "clipart_train.txt").write_text(
        "clipart/bat/0.jpg 20\nclipart/bat/1.jpg 20\nclipart/zebra/0.jpg 343\n"
    )
    (tmp_path / "clipart_test.txt").write_text("clipart/zebra/2.jpg 343\n")
    train, test = (open_domain(config, "domainnet", d, partial=True) for d in ("clipart", "clipart_test"))
    assert (
        train.class_names == test.class_names == ("ant", "bat", "zebra")
    )  # the label of zebra is the same wherever ant is absent
    assert [i.label for i in train.items] == [1, 1, 2] and named(test) == {"clipart/zebra/2.jpg": "zebra"}
    with pytest.raises(DataError, match=r"no sketch_train.txt \(the official list\)"):
        open_domain(config, "domainnet", "sketch", partial=True)
    with pytest.raises(DataError, match="holds 1 images in 1 classes, but 14,604 in 345"):
        open_domain(config, "domainnet", "clipart_test")


def idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    data = (
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(str(path) + (".gz" if zipped else "")).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [True, False])
def test_digits_from_idx_files_and_parquet(tmp_path, zipped):
    rng = np.random.default_rng(0)
    images, digits = (
        rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 7, 8], np.uint8),
    )
    idx(tmp_path / "MNIST/raw/train-images-idx3-ubyte", images, zipped)
    idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", digits, zipped)
    config = DataConfig(str(tmp_path))
    source = open_domain(config, "digits", "mnist", partial=True)
    assert source.class_names == tuple("0123456789") and source.items[0].key == "0/00001.png"
    for item in source.items:
        i = int(item.key[2:7])
        assert item.label == digits[i] and np.array_equal(
            decode(source.read(item.key), 1, "x")[..., 0], images[i]
        )
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        open_domain(config, "digits", "mnist_test", partial=True)
    with pytest.raises(DataError, match="holds 12 images"):
        open_domain(config, "digits", "mnist")
    idx(tmp_path / "MNIST/raw/t10k-images-idx3-ubyte", images, False)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x0c\1")
    with pytest.raises(DataError, match="not a readable idx file"):
        open_domain(config, "digits", "mnist_test", partial=True)
    rows = [{"bytes": PICTURE, "path": f"usps/train/{i}.png"} for i in range(3)]
    (tmp_path / "usps").mkdir()
    pq.write_table(
        pa.table({"image": rows, "label": [3, 0, 9], "class_name": ["3", "0", "9"]}),
        tmp_path / "usps" / "train.parquet",
    )
    assert [i.label for i in open_domain(config, "digits", "usps", partial=True).items] == [3, 0, 9]


def test_wrong_names_and_places(tmp_path):
    config = DataConfig(str(tmp_path))
    with pytest.raises(RecipeError, match="Did you mean 'office31'"):
        open_domain(config, "office-31", "amazon")
    with pytest.raises(RecipeError, match="Did you mean 'webcam'"):
        open_domain(config, "office31", "webcams")
    with pytest.raises(DataError, match="data.path is empty"):
        open_domain(DataConfig(), "office31", "webcam")
    with pytest.raises(DataError, match="is not a folder"):
        open_domain(DataConfig(str(tmp_path / "nowhere")), "office31", "webcam")


def test_stage_reads_domains_and_plans_without_the_data(tmp_path):
    config = files(tmp_path, "webcam/mug/1.jpg", "webcam/pen/1.jpg")
    stage = Images(config, (("webcam/0", "webcam"),), "office31", True)
    (shard,) = stage.plan({})
    rows = stage.open(WorkContext("cpu")).run(shard, [])
    assert (
        rows.column("key") == ["webcam/0/mug/1.jpg", "webcam/0/pen/1.jpg"]
        and stage.class_names[rows.column("label")[0]] == "mug"
    )
    absent = Images(DataConfig(str(tmp_path / "nowhere"), block=500), (("amazon/0", "amazon"),), "office31")
    with pytest.raises(DataError, match="is not a folder"):
        absent.plan({})
    with lenient() as notes:
        assert sum(s.items for s in absent.plan({})) == 2817 and len(absent.class_names) == 31
    assert "is not a folder" in notes[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_the_genuine_sets_have_their_published_counts(tmp_path):
    for domain in ("amazon", "dslr", "webcam"):
        open_domain(DataConfig(str(SHARED / "office31")), "office31", domain)
    for domain in ("mnist_test", "usps", "usps_test"):
        open_domain(DataConfig(str(SHARED / "digits")), "digits", domain)
    parquet = open_domain(DataConfig(str(SHARED / "office31")), "office31", "dslr")
    for item in parquet.items:
        file = tmp_path / item.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(parquet.read(item.key))
    folders = open_domain(DataConfig(str(tmp_path)), "office31", "dslr")
    assert {f"dslr/images/{i.key}": i.label for i in folders.items} == {i.key: i.label for i in parquet.items}


def test_published_averages_are_quoted_with_their_source():
    rows = published("office31", "ResNet-50")
    assert {r.method: r.value for r in rows} == {
        "Source only": 79.5,
        "DANN": 86.1,
        "CDAN": 87.7,
        "MCD": 85.4,
        "MCC": 89.6,
        "FixMatch": 86.4,
    }
    assert all("Transfer-Learning-Library" in r.source for r in rows) and "oracle" in note()
    assert {r.value for r in published("visda2017", "DeiT-B")} == {67.3, 88.4} and len(
        published("officehome")
    ) == 14
    assert published("imageclef") == [] and all(
        r.benchmark in BENCHMARKS for b in BENCHMARKS for r in published(b)
    )
