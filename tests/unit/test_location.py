"""Paths and URLs that users give: a chain of file systems is refused wherever one may stand, before anything
is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffadapt.cli import main
from diffadapt.core.errors import DiffadaptError, StoreError
from diffadapt.core.location import locate
from diffadapt.core.recipes import read_file
from diffadapt.core.store import Store
from diffadapt.data.class_names import read_class_names
from diffadapt.data.config import DataConfig
from diffadapt.data.export import write_tree
from diffadapt.data.readers import open_location
from diffadapt.data.scenes.classes import read_class_table
from diffadapt.data.scenes.write import Tree
from diffadapt.data.source import open_source
from diffadapt.train.checkpoints import Checkpoints

PACKAGE = Path(__file__).resolve().parents[2] / "platform" / "diffadapt"
TAKERS = {
    "root": Store,
    "data": lambda place: open_source(DataConfig(path=place)),
    "scenes": open_location,
    "classes": read_class_table,
    "class names": read_class_names,
    "out": lambda place: write_tree([], place),
    "folder of scenes": Tree,
    "recipe": read_file,
    "checkpoints": Checkpoints,
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("form", ["{}::b", "simplecache::s3://k:SECRET@bucket{}", "{}/a::{}/b"])
def test_chains_are_refused_in_a_sentence(taker, form, tmp_path):
    place = form.format(tmp_path / "a", tmp_path / "a")
    with pytest.raises(
        DiffadaptError, match=r"holds '::', .*: give one plain path or URL without '::'\.$"
    ) as caught:
        taker(place)
    assert "SECRET" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_plain_place_is_opened(tmp_path):
    fs, path = locate(str(tmp_path / "a:b"), StoreError)
    assert path == str(tmp_path / "a:b") and fs.exists(str(tmp_path))


def test_the_command_line_writes_nothing_beside_what_it_was_told(tmp_path, capsys):
    place = tmp_path / "a"
    assert main(["plan", "quickstart", "--root", f"{place}::b"]) == 2
    assert "holds '::'" in capsys.readouterr().err
    assert main(["doctor", "--root", f"{place}::b"]) == 1
    assert "holds '::'" in capsys.readouterr().out and not place.exists()


def test_nothing_else_hands_places_to_fsspec():
    found = [
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file != PACKAGE / "core" / "location.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"fsspec\.(open|core|url_to_fs|get_mapper|generic)|from fsspec\.core", line)
    ]
    assert not found, "core/location.py opens them"


def test_nothing_asks_fsspec_itself_what_is_there():
    """Its own answers are 'nothing' where a place fails: what is there would be left out or remade."""
    asks = re.compile(r"\bfs\.(exists|isfile|isdir)\(")
    assert [str(f) for f in PACKAGE.rglob("*.py") if asks.search(f.read_text(encoding="utf-8"))] == []
