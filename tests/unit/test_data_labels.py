"""Labels of a set: from folders, from a CSV file, or none; class lists bound by meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import DataError
from diffadapt.core.stage import WorkContext
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.data.items import Source
from diffadapt.data.source import open_source
from diffadapt.stages.images import Images


def png(value: int) -> bytes:
    return encode_png(np.full((4, 4, 3), value % 256, np.uint8))


def tree(root: Path, *paths: str) -> Path:
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(i))
    return root


def text(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def labels(source: Source) -> dict[str, str | None]:
    return {i.key: None if i.label is None else source.class_names[i.label] for i in source.items}


@pytest.fixture
def office(tmp_path) -> DataConfig:
    return DataConfig(str(tree(tmp_path / "set", "back_pack/a.png", "back_pack/b.png", "mug/a.png")))


def test_folder_names_are_bound_by_meaning(office, tmp_path):
    for listed in ("Mug\nback pack\nlamp\n", "mug\nbackpack\nlamp\n"):
        config = replace(office, classes=text(tmp_path / "classes.txt", listed))
        with pytest.raises(DataError, match="lacks 'lamp'"):
            open_source(config)
        source = open_source(config, subset=True)
        assert source.class_names == tuple(listed.split("\n")[:3]) and [i.label for i in source.items] == [
            1,
            1,
            0,
        ]
    with pytest.raises(DataError, match=r"the list lacks 'mug' \(data.labels none"):
        open_source(replace(office, classes=text(tmp_path / "classes.txt", "back pack\nlamp\n")), subset=True)
    tree(tmp_path / "set", "back-pack/c.png")
    with pytest.raises(DataError, match="has both 'back-pack' and 'back_pack' for the class 'back pack'"):
        open_source(replace(office, classes=text(tmp_path / "classes.txt", "back pack\nmug\n")))


def test_a_class_list_may_have_comments_and_a_byte_order_mark(office, tmp_path):
    config = replace(
        office, classes=text(tmp_path / "classes.txt", "\ufeff# of the office\nmug\r\nback_pack\r\n\n")
    )
    assert open_source(config).class_names == ("mug", "back_pack")


def test_a_class_list_beside_unlabelled_images_names_the_classes(tmp_path):
    root = tree(tmp_path / "flat", "x.png", "y.png")
    source = open_source(DataConfig(str(root), classes=text(tmp_path / "classes.txt", "mug\nlamp\n")))
    assert source.class_names == ("mug", "lamp") and labels(source) == {"x.png": None, "y.png": None}


def test_without_labels_folders_do_not_matter(office, tmp_path):
    tree(tmp_path / "set", "top.png", "mug/deep/er.png")
    source = open_source(replace(office, labels="none"))
    assert labels(source) == dict.fromkeys(
        ["back_pack/a.png", "back_pack/b.png", "mug/a.png", "mug/deep/er.png", "top.png"]
    )
    assert source.class_names == () and source.read("top.png") == png(0)
    named = open_source(
        replace(office, labels="none", classes=text(tmp_path / "classes.txt", "other\nthings\n"))
    )
    assert named.class_names == ("other", "things") and set(labels(named).values()) == {None}
    assert open_source(office).fingerprint != source.fingerprint


def test_parquet_and_embedded_sets_without_labels(tmp_path):
    image = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
    pq.write_table(pa.table({"image": image, "label": [0, 1, 0]}), tmp_path / "set.parquet")
    assert set(labels(open_source(DataConfig(str(tmp_path / "set.parquet"), labels="none"))).values()) == {
        None
    }
    digits = DataConfig("embedded:digits", split="test")
    bare = open_source(replace(digits, labels="none"))
    assert len(bare.items) == 600 and bare.class_names == () and bare.items[0].label is None
    turned = open_source(replace(digits, classes=text(tmp_path / "classes.txt", "\n".join("9876543210"))))
    assert {i.key: i.label for i in turned.items} == {i.key: 9 - int(i.key[0]) for i in turned.items}


def test_labels_from_a_csv_file(office, tmp_path):
    rows = "back_pack/a.png,Lamp\nmug/a.png,mug\n./back_pack/b.png,mug\n"
    given = {"back_pack/a.png": "Lamp", "back_pack/b.png": "mug", "mug/a.png": "mug"}
    headers = ("", "path,class name\n", "filename,label\n")
    for header in headers:
        source = open_source(replace(office, labels=text(tmp_path / "labels.csv", header + rows)))
        assert labels(source) == given and source.class_names == ("Lamp", "mug")
    wide = "file,camera,category\nback_pack/a.png,3,Lamp\nback_pack/b.png,3,mug\nmug/a.png,4,mug\n"
    assert labels(open_source(replace(office, labels=text(tmp_path / "labels.csv", wide)))) == given
    listed = text(tmp_path / "classes.txt", "mug\nlamp\nchair\n")
    source = open_source(replace(office, labels=text(tmp_path / "labels.csv", rows), classes=listed))
    assert source.class_names == ("mug", "lamp", "chair") and [i.label for i in source.items] == [1, 0, 0]
    assert (
        len(open_source(replace(office, labels=str(tmp_path / "labels.csv"), limit_per_class=1)).items) == 2
    )


def test_csv_files_that_do_not_fit_are_refused(office, tmp_path):
    good = "back_pack/a.png,mug\nback_pack/b.png,mug\nmug/a.png,mug\n"
    cases = {
        good + "mug/zz.png,mug\n": "names 1 images that set has not, such as 'mug/zz.png'",
        "mug/a.png,mug\n": "lacks 2 of 3 images, such as 'back_pack/a.png'",
        good + "mug/a.png,lamp\n": "'mug/a.png' both 'mug' and 'lamp'",
        "mug/a.png\n": "Line 1 of the label file .* has 1 columns",
        good + "mug/a.png, \n": "Line 4 of the label file .* no class name",
        "path,class\n": "is empty",
    }
    for content, sentence in cases.items():
        with pytest.raises(DataError, match=sentence):
            open_source(replace(office, labels=text(tmp_path / "labels.csv", content)))
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        open_source(replace(office, labels=str(tmp_path / "labels.csv")))
    with pytest.raises(DataError, match="label file .* cannot be read"):
        open_source(replace(office, labels=str(tmp_path / "absent.csv")))
    with pytest.raises(DataError, match="the list lacks 'mug'"):
        open_source(
            replace(
                office,
                labels=text(tmp_path / "labels.csv", good),
                classes=text(tmp_path / "classes.txt", "lamp\nchair\n"),
            )
        )


def test_empty_and_absent_targets_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in ("auto", "none"):
        with pytest.raises(DataError, match="holds no images"):
            open_source(DataConfig(str(tmp_path / "empty"), labels=kind))
        with pytest.raises(DataError, match="does not exist"):
            open_source(DataConfig(str(tmp_path / "absent"), labels=kind))


def test_a_target_stage_may_lack_classes_and_keeps_labels_out_of_the_way(office, tmp_path):
    data = replace(office, classes=text(tmp_path / "classes.txt", "lamp\nmug\nback pack\n"))
    with pytest.raises(DataError, match="lacks 'lamp'"):
        Images(data, (("target/0", ""),)).plan({})
    stage = Images(data, (("target/0", ""),), subset=True)
    (shard,) = stage.plan({})
    assert (
        stage.class_names == ("lamp", "mug", "back pack")
        and stage.identity() == Images(data, (("target/0", ""),), subset=True).identity()
    )
    rows = stage.open(WorkContext("cpu")).run(shard, [])
    assert rows.column("key") == [
        f"target/0/{k}" for k in ("back_pack/a.png", "back_pack/b.png", "mug/a.png")
    ] and rows.column("label") == [2, 2, 1]
    bare = replace(stage, data=replace(data, labels="none"))
    assert bare.open(WorkContext("cpu")).run(*bare.plan({}), []).column("label") == [None] * 3
