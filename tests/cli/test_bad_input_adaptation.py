"""Class lists, target folders and label files of Adapt Anything that are missing, empty, damaged or do not
fit together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.adapting import NAMES
from tests.cli.adaptplace import AdaptPlace


def test_targets_that_are_no_folder_of_images(adapt: AdaptPlace, tmp_path: Path) -> None:
    adapt.plan(target=tmp_path).sentence(str(tmp_path), "holds no images")
    adapt.plan(target=tmp_path / "nope").sentence("nope", "does not exist")
    adapt.plan(target=adapt.text("notes.txt", "hello")).sentence("neither Parquet nor an archive")
    adapt.plan(target="").sentence("no target images", "--target")
    adapt.plan(target="embedded:digitz").sentence("digitz", "embedded:digits")
    adapt.plan(target=tmp_path / "*.png").sentence("holds no images")
    (tmp_path / "zero").mkdir()
    adapt.plan(target=tmp_path).sentence("holds no images")


def test_a_target_that_must_not_be_read(adapt: AdaptPlace, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    tmp_path.chmod(0)
    try:
        adapt.plan(target=tmp_path).sentence("cannot be listed")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "lines, parts",
    [
        (["zero"], ["names one class only ('zero')", "at least two"]),
        (["", "  ", "# zero"], ["is empty", "one class name a line"]),
        (["zero", "one", "zero"], ["'zero' twice"]),
        (["Zero", "zero"], ["'zero' and 'Zero'", "differ only in case"]),
        (["coffee mug", "coffee_mug"], ["'coffee_mug' and 'coffee mug'", "differ only"]),
        (["zero", "--"], ["'--'", "a prompt can say"]),
    ],
)
def test_class_lists(adapt: AdaptPlace, lines: list[str], parts: list[str]) -> None:
    adapt.plan(classes=adapt.text("list.txt", *lines), target=adapt.flat).sentence("list.txt", *parts)


def test_class_lists_that_are_missing_or_no_text(adapt: AdaptPlace) -> None:
    adapt.plan(classes=adapt.folder / "nope.txt").sentence(
        "nope.txt", "cannot be read", "one class name a line"
    )
    (adapt.folder / "latin.txt").write_bytes("café\nmug".encode("latin-1"))
    adapt.plan(classes=adapt.folder / "latin.txt").sentence("not UTF-8")
    adapt.plan(classes=adapt.folder).sentence("cannot be read")
    adapt.plan(classes=None, target=adapt.flat).sentence("classes are not known", "--classes")


def test_target_folders_that_do_not_match_the_list(adapt: AdaptPlace, tmp_path: Path) -> None:
    adapt.plan(classes=adapt.text("few.txt", *NAMES[:3])).sentence("the list lacks", "'five'", "labels none")
    shutil.copytree(adapt.flat, tmp_path / "session 1")
    adapt.plan(target=tmp_path).sentence("the list lacks 'session 1'", "data.labels none")
    assert adapt.plan("--target.labels", "none", target=tmp_path).status == 0
    one = tmp_path / "one"
    shutil.copytree(adapt.flat, one / "zero")
    assert adapt.plan(target=one).status == 0, "a target may lack classes"
    adapt.plan(classes=None, target=one).sentence("one class only ('zero')")


def test_label_files(adapt: AdaptPlace) -> None:
    def labels(name: str, *lines: str):
        return adapt.plan("--target.labels", adapt.text(name, *lines), target=adapt.flat)

    rows = [f"{i}.png,zero" for i in range(6)]
    labels("few.csv", "path,class", *rows[:2]).sentence(
        "few.csv", "lacks 4 of 6 images", "'2.png'", "data.labels to none"
    )
    labels("many.csv", *rows, "7.png,one").sentence("many.csv", "names 1 images", "'7.png'", "relative to")
    labels("dog.csv", *rows[:5], "5.png,zerro").sentence(
        "dog.csv", "the list lacks 'zerro'", "mend its names"
    )
    labels("header.csv", "picture,kind", *rows).sentence("begins with 'picture'", "header", "path,class name")
    labels("wide.csv", *(f"{row},1" for row in rows)).sentence("Line 1", "3 columns")
    labels("hole.csv", *rows[:5], "5.png,").sentence("Line 6", "no class name")
    labels("twice.csv", *rows, "5.png,one").sentence("'5.png'", "keep one")
    labels("empty.csv").sentence("is empty")
    adapt.plan("--target.labels", adapt.folder / "nope.csv", target=adapt.flat).sentence(
        "nope.csv", "cannot be read"
    )
    assert labels("good.csv", "file,label", *rows).status == 0


def test_an_oracle_wants_labels_and_a_real_source_too(adapt: AdaptPlace) -> None:
    adapt.plan("--select.rule", "oracle", target=adapt.flat).sentence(
        "oracle", "no target image has one", "ensv"
    )
    assert adapt.plan("--select.rule", "oracle").status == 0
    adapt.plan("--source.path", adapt.flat, target=adapt.flat).sentence(
        "6 of 6 source images have no label", "sub-folder a class"
    )
    assert adapt.plan("--source.path", adapt.folder / "target", target=adapt.flat, classes=None).status == 0
    adapt.plan("--source.path", adapt.folder / "target", target=adapt.flat).sentence(
        "lacks 'eight', 'nine', 'seven'"
    )
