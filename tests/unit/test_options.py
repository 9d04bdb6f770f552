"""The fields of a recipe on a command line: what reads the named ones alone says what a parser of all fields
says."""

from __future__ import annotations

import pytest

from diffadapt.commands import options as module
from diffadapt.commands.options import parse_fields
from diffadapt.commands.run import RunOptions
from diffadapt.core import recipes
from diffadapt.core.config import changes
from diffadapt.core.errors import DiffadaptError


def words_of(base, other) -> list[str]:
    """The options that make ``base`` what ``other`` is."""
    words = []
    for name, value in changes(base, other).items():
        option = f"--{name.replace('_', '-')}"
        words += [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]
    return words


def whole(monkeypatch) -> None:
    monkeypatch.setattr(module, "_of_the_named", lambda *_: None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("quickstart", "sda/ablations/images_1k_swin_t"),
        ("adapt_anything/office31/amazon_webcam", "adapt_anything/visda2017/both"),
        ("zodi/tiny", "zodi/cityscapes_acdc/fog"),
    ],
)
def test_the_named_fields_are_read_as_by_a_parser_of_all(one, other, monkeypatch):
    base, wanted = recipes.load(one), recipes.load(other)
    words = ["--root=there", *words_of(base, wanted)]
    assert len(words) > 12
    quick, named = module._of_the_named, []
    monkeypatch.setattr(module, "_of_the_named", lambda *a: named.append(quick(*a)) or named[-1])
    read = parse_fields(RunOptions, base, words, "run", "run it")
    assert named == [read] and read.recipe == wanted and type(read.recipe) is type(base) and read.options.root == "there"
    whole(monkeypatch)
    assert parse_fields(RunOptions, base, words, "run", "run it").recipe == read.recipe


@pytest.mark.parametrize(
    "words",
    [
        ["--align.scale", "much"],
        ["--align.scal", "2"],
        ["--align.scale"],
        ["--align.scale", "2", "left-over"],
        ["--align.respacing", "-1"],
        ["--execution.runner", "slurm"],
        ["--align.scale", "2", "--help"],
    ],
)
def test_what_is_wrong_is_said_in_the_same_words(words, monkeypatch, capsys):
    said = []
    for _ in range(2):
        with pytest.raises((SystemExit, DiffadaptError)) as ended:
            parse_fields(RunOptions, recipes.load("quickstart"), words, "run", "run quickstart")
        said.append((capsys.readouterr(), str(ended.value)))
        whole(monkeypatch)
    assert said[0] == said[1] and any((*said[0][0], said[0][1]))
