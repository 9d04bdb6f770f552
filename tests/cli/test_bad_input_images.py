"""Images and classes that are damaged, odd or do not fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.badinput import Place, diffadapt, digit_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return digit_folder(tmp_path / "images", each=3)


def truncate(file: Path) -> Path:
    """A JPEG that ends in the middle."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def quarantined(place: Place) -> list[dict]:
    return [json.loads(line) for line in (place.run_folder() / "quarantine.jsonl").read_text().splitlines()]


def test_a_truncated_jpeg_is_quarantined_with_key_and_reason(place: Place, images: Path) -> None:
    truncate(images / "3" / "half.jpg")
    result = place.run(*place.folder_words(images))
    assert result.status == 0, result.text
    assert "30 of 31" in result.output and "quarantine.jsonl" in result.output
    found = quarantined(place)
    assert {f["key"] for f in found} == {"target/0/3/half.jpg"}
    assert all("not a readable image" in f["reason"] for f in found)
    assert "target/0/3/half.jpg" in (place.run_folder() / "report.html").read_text()
    manifest = json.loads((place.run_folder() / "manifest.json").read_text())
    assert [q[0] for q in manifest["nodes"]["projected"]["quarantined"]] == ["target/0/3/half.jpg"]

    again = place.run(*place.folder_words(images))
    assert again.status == 0 and json.loads((place.run_folder() / "manifest.json").read_text()) == manifest
    assert quarantined(place) == found

    strict = place.run(*place.folder_words(images), "--execution.max-failed-fraction", "0.01")
    strict.sentence("quarantined 1 of 31 items", "target/0/3/half.jpg", "--execution.max-failed-fraction")


def test_what_could_harm_is_quarantined_like_what_cannot_be_read(
    place: Place, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of few bytes and many pixels, and a PostScript file that is called a JPEG."""
    Image.new("1", (8192, 8193)).save(images / "1" / "huge.png")
    (images / "2" / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EOF\n")
    lenient = ("--execution.max-failed-fraction", "0.1")
    result = place.run(*place.folder_words(images), *lenient)
    assert result.status == 0 and "30 of 32" in result.output, result.text
    found = {f["key"]: f["reason"] for f in quarantined(place)}
    assert set(found) == {"target/0/1/huge.png", "target/0/2/script.jpg"}
    assert "DIFFADAPT_MAX_PIXELS to 67117056 or more" in found["target/0/1/huge.png"]
    assert "no image format is recognised" in found["target/0/2/script.jpg"]
    monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", "lots")
    place.run(*place.folder_words(images), *lenient, root=place.folder / "other").sentence(
        "DIFFADAPT_MAX_PIXELS is 'lots'"
    )


def test_above_the_fraction_the_stage_fails_and_mended_images_finish(place: Place, images: Path) -> None:
    for i in range(4):
        truncate(images / "0" / f"half{i}.jpg")
    place.run(*place.folder_words(images)).sentence(
        "more than the allowed 5%", "target/0/0/half", "quarantine.jsonl in the run folder"
    )
    assert {f["key"] for f in quarantined(place)} <= {f"target/0/0/half{i}.jpg" for i in range(4)}
    for i in range(4):
        Image.new("L", (16, 16)).save(images / "0" / f"half{i}.jpg")
    assert place.run(*place.folder_words(images)).status == 0


def test_an_unreadable_training_image_is_quarantined_too(place: Place, images: Path) -> None:
    truncate(images / "3" / "half.jpg")
    words = ("--source.path", images, "--source.split", "all", "--classifier-fit.epochs", "1")
    result = place.run_whole(*words)
    assert result.status == 0, result.text
    assert [(f["node"], f["key"]) for f in quarantined(place)] == [("classifier", "clean/0/3/half.jpg")]
    place.run_whole(*words, "--execution.max-failed-fraction", "0.01").sentence(
        "The stage classifier quarantined 1 of 31", "clean/0/3/half.jpg"
    )


def test_cmyk_and_16_bit_images_work(place: Place, images: Path) -> None:
    Image.new("CMYK", (16, 16), (10, 200, 30, 40)).save(images / "0" / "cmyk.jpg")
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(
        images / "1" / "sixteen.png"
    )
    Image.new("P", (16, 16), 3).save(images / "2" / "palette.png")
    result = place.run(*place.folder_words(images))
    assert result.status == 0, result.text
    assert " of 33" not in result.output and "33" in result.output
    assert not (place.run_folder() / "quarantine.jsonl").exists()


def test_an_empty_class_folder_is_named(place: Place, images: Path) -> None:
    (images / "owl").mkdir()
    for command in ("plan", "run"):
        diffadapt(command, "small", "--root", place.root, *place.folder_words(images)).sentence(
            "owl", "holds no images", "fill or remove it"
        )
    assert not place.root.exists() or not any(place.root.rglob("*.parquet"))


def test_a_class_list_that_does_not_match_the_folders(place: Place, images: Path) -> None:
    listed = place.folder / "classes.txt"
    words = (*place.folder_words(images), "--target.data.classes", listed)
    listed.write_text("\n".join("012345678x"))
    place.run(*words).sentence("lacks 'x'", "the list lacks '9'")
    listed.write_text("\n".join("0123456788"))
    place.run(*words).sentence("'8' twice")
    listed.write_text("")
    place.run(*words).sentence("is empty")
    listed.unlink()
    place.run(*words).sentence("class list", "cannot be read")


def test_a_classifier_of_another_class_count_stops_at_once(place: Place, tmp_path: Path) -> None:
    seven = digit_folder(tmp_path / "seven", classes=7)
    place.run(*place.folder_words(seven)).sentence("has 10 classes", "data have 7", "data.classes")
    assert place.stored("aligned") == []


def test_places_without_images(place: Place, tmp_path: Path) -> None:
    place.run(*place.folder_words(tmp_path / "nowhere")).sentence("nowhere does not exist")
    (tmp_path / "bare").mkdir()
    place.run(*place.folder_words(tmp_path / "bare")).sentence("bare holds no images")
    (tmp_path / "a.txt").write_text("text")
    place.run(*place.folder_words(tmp_path / "a.txt")).sentence(
        "neither Parquet nor an archive", "give a folder of images"
    )
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    place.run(*place.folder_words(tmp_path / "a.parquet")).sentence("a.parquet")
