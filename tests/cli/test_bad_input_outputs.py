"""Outputs that cannot be written: one sentence, and nothing half-written that looks whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from diffadapt.core.causes import full_disk
from diffadapt.data import export as exported
from tests.cli.badinput import Place, diffadapt, digit_folder, small_disk
from tests.unit.test_diffusion_import_adm import TINY as ADM
from tests.unit.test_import_dit import TINY as DIT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, monkeypatch)
    made.finish()
    return made


def export(place: Place, out: object, what: str = "projected"):
    return diffadapt("export", "last", "--root", place.root, "--what", what, "--out", out)


@pytest.fixture
def commands(shell, tmp_path: Path):
    """Every command that has an output, by its name, with a folder as that output (or a file in it)."""
    root = ("--root", shell.small)
    photos = digit_folder(tmp_path / "photos", classes=1)

    def words(name: str, out: Path) -> tuple[object, ...]:
        return {
            "export": ("export", "last", *root, "--what", "projected", "--out", out),
            "export model": ("export", "last", *root, "--out", out),
            "predict": ("predict", photos, *root, "--out", out / "p.parquet"),
            "import-adm": ("weights", "import-adm", ADM, "--out", out),
            "import-dit": ("weights", "import-dit", DIT, "--vae", "None", "--num-heads", "2", "--out", out),
        }[name]

    return words


NAMES = ("export", "export model", "predict", "import-adm", "import-dit")


@pytest.mark.parametrize("command", NAMES)
def test_a_name_that_is_too_long(commands, tmp_path: Path, command: str) -> None:
    out = tmp_path / ("n" * 300)
    diffadapt(*commands(command, out)).sentence("--out", "longer than the file system allows", "shorten it")


@pytest.mark.parametrize("command", NAMES)
def test_a_file_where_a_folder_should_be(commands, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("text")
    diffadapt(*commands(command, tmp_path / "file" / "below")).sentence("--out", "file", "give another place")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("command", NAMES)
def test_a_read_only_place(commands, tmp_path: Path, command: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m") as remount:
        remount("ro")
        diffadapt(*commands(command, disk / "out")).sentence("--out", "is read-only", "give another place")


@pytest.mark.parametrize("command", ["export", "import-dit"])
def test_a_disk_that_is_full(commands, tmp_path: Path, command: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "12k"):
        diffadapt(*commands(command, disk / "new" / "out")).sentence(
            "--out", "the disk is full", "free space"
        )
        assert not list(disk.iterdir()), "something half-written was left"


def test_an_export_that_fails_half_way_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put, written = exported._put, []

    def failing(fs, path: str, data: bytes) -> None:
        if len(written) == 3:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)
        written.append(path)
        put(fs, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(exported, "_put", failing)
        export(place, place.folder / "out").sentence("--out", "quota", "free space")
    assert len(written) == 3 and not (place.folder / "out").exists()
    assert not [p for p in place.folder.iterdir() if "incomplete" in p.name]
    assert export(place, place.folder / "out").status == 0
    assert len([p for p in (place.folder / "out").rglob("*.png")]) > 3


def test_keys_that_no_file_name_can_hold_are_shortened_and_told_apart(tmp_path: Path) -> None:
    from diffadapt.data.embedded import digits
    from diffadapt.data.image import encode_png

    _, images, _ = digits("test")
    data = encode_png(images[0])
    deep = "/".join(["a" * 100] * 4)
    rows = [(f"{deep}/{'ü' * 90}{end}.png", 0, data) for end in "xy"] + [("short.png", 0, data)]
    for layout in ("flat", "imagefolder"):
        assert exported.write_tree(rows, str(tmp_path / layout), layout, class_names=["zero"]) == 3
        found = sorted(p.name for p in (tmp_path / layout).rglob("*.png"))
        assert len(found) == 3 and "short.png" in found and all(len(n.encode()) <= 255 for n in found)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "small", "--root", "r" * 300),
        ("run", "small", "--classifier.name", "./" + "c" * 300),
        ("run", "r" * 300 + ".json"),
        ("run", "small", "--target.kind", "folder", "--target.data.path", "t" * 300),
        ("weights", "import-adm", "w" * 300),
        ("predict", "p" * 300),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_names_of_300_characters_are_a_sentence_everywhere(place: Place, words: tuple[str, ...]) -> None:
    given = words if "--root" in words or words[0] == "weights" else (*words, "--root", place.root)
    diffadapt(*given).sentence()


def test_temporary_files_on_a_full_disk_are_not_the_programs_fault(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = place.folder / "disk"
    with small_disk(disk, "16k"):
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        for write in (lambda: torch.save(torch.zeros(50_000), disk / "t.pt"), lambda: _through_python(disk)):
            with pytest.raises((OSError, RuntimeError)) as caught:
                write()
            assert full_disk(caught.value), caught.value
            shutil.rmtree(disk / "t.pt", ignore_errors=True)
        result = place.run(
            "--methods",
            "source",
            "--controls",
            "--figures",
            "False",
            recipe="whole",
            root=place.folder / "other",
        )
        result.sentence("disk that holds", "is full", "free space", "finished shards are kept")
        assert "not your input's fault" not in result.text


def _through_python(disk: Path) -> None:
    with open(disk / "u.pt", "wb", buffering=0) as handle:
        torch.save(torch.zeros(50_000), handle)
