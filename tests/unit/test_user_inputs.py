"""Inputs as users bring them: folders that lack classes or hold more than images, masks, odd files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import DataError
from diffadapt.core.recipes import load
from diffadapt.core.store import Store
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.data.items import Source
from diffadapt.data.labels import bind_source
from diffadapt.data.source import open_source


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

    def test_one_set_is_divided_between_source_and_target(self, tmp_path):
        source = classes(tmp_path / "source", "137", 8)
        recipe = sda(source, source / ".." / "source")
        assert len(of_target(recipe, tmp_path).items) == 12
