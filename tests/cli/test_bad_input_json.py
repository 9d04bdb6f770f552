"""JSON that someone else wrote: nested, doubled, of another encoding, of impossible numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffadapt.core.foreign import DEEPEST, parse
from tests.cli.badinput import Place, diffadapt

DEEP = "[" * 100_000 + "]" * 100_000
LIMIT = "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def recipe_text(overrides: str) -> str:
    return f'{{"recipe": "small", "overrides": {overrides}}}'


BAD = {
    "deep": (recipe_text(f'{{"seed": {DEEP}}}'), "nested deeper than"),
    "deeper than is walked": (recipe_text(f'{{"seed": {LIMIT}}}'), "nested deeper than"),
    "twice": (recipe_text('{"seed": 1, "seed": 2}'), "'seed' twice"),
    "nan": (recipe_text('{"seed": NaN}'), "holds NaN"),
    "infinite": (recipe_text('{"synth.guidance": 1e999}'), "1e999, which is out of range"),
    "digits": (recipe_text(f'{{"seed": {"9" * 5000}}}'), "thousands of digits"),
    "list": ("[]", "no recipe"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_recipe_file_is_refused_in_a_sentence(place: Place, case: str) -> None:
    text, part = BAD[case]
    (place.folder / "own.json").write_text(text)
    diffadapt("plan", place.folder / "own.json", "--root", place.root).sentence(part)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_recipe_file_of_another_editor_is_read(place: Place, encoding: str) -> None:
    (place.folder / "own.json").write_bytes(recipe_text('{"seed": 5}').encode(encoding))
    shown = diffadapt("show", place.folder / "own.json")
    assert shown.status == 0 and "5" in shown.output


def test_a_file_that_is_no_text_or_too_large(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "own.json").write_bytes(b'{"recipe": "\xff\xfe\x00\xd8"}')
    diffadapt("plan", place.folder / "own.json").sentence("no recipe")
    from diffadapt.core import foreign

    monkeypatch.setattr(foreign.parse, "__kwdefaults__", {"strict": False, "largest": 2**20})
    (place.folder / "own.json").write_text(recipe_text("{}") + " " * 2**20)
    diffadapt("plan", place.folder / "own.json").sentence("more than 1 MiB")


@pytest.mark.parametrize(
    "text", [DEEP, LIMIT, f'{{"architecture": {DEEP}}}'], ids=["deep", "limit", "inside"]
)
def test_configurations_of_foreign_folders(place: Place, text: str) -> None:
    folder = place.folder / "model"
    folder.mkdir()
    for name in ("config.json", "model_index.json", "segmenter.json", "detector.json"):
        (folder / name).write_text(text)
    (folder / "model.safetensors").write_bytes(b"")
    for words in (
        ("run", "small", "--classifier.name", folder),
        ("run", "whole", "--synth.weights", folder, "--methods", "sda"),
        ("plan", "zodi/tiny", "--transfer.controlnet", folder),
        ("plan", "zodi/tiny", "--segmenter.backbone", folder),
        ("plan", "zodi/tiny", "--segmenter.weights", folder),
        ("plan", "adapt_anything/digits", "--generator", folder),
        ("plan", "adapt_anything/digits", "--filters.clip", folder),
    ):
        result = diffadapt(*words, "--root", place.root)
        if "Not at hand" not in result.text:  # a plan goes on without the weights
            result.sentence()


@pytest.mark.parametrize("file", ["manifest.json", "status.json", "recipe.json"])
def test_files_of_a_run_that_are_nested_too_deep(place: Place, file: str) -> None:
    place.finish()
    (place.run_folder() / file).write_text(f'{{"format": {DEEP}}}')
    assert diffadapt("status", "--root", place.root).status == 0
    result = diffadapt("report", "last", "--root", place.root)
    if file != "status.json":
        result.sentence("damaged")
    else:
        assert result.status == 0, result.text


def test_lenient_reading_takes_what_python_writes() -> None:
    assert parse('{"a": 1, "a": 2}') == {"a": 2}
    assert parse(json.dumps({"x": float("inf")}).encode()) == {"x": float("inf")}
    assert parse("[" * DEEPEST + "]" * DEEPEST)
