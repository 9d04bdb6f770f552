"""Disks that are full or read-only, and files of a root that are damaged or of another format."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffadapt.core import store as stores
from tests.cli.badinput import Place, diffadapt, small_disk


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "store").rglob("*.parquet"))}


def test_a_full_disk_keeps_finished_shards_and_a_rerun_finishes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, written = os.replace, []

    def full(source: str, target: str) -> None:
        if str(target).endswith(".parquet"):
            written.append(target)
            if len(written) > 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(stores.os, "replace", full)
        place.run().sentence("disk of the store", "is full", "free space", "finished shards are kept")
    kept = content(place.root)
    assert len(kept) == 4 and len(written) <= 8, "the run goes on although nothing can be stored"
    assert not list(place.root.rglob("*.tmp-*"))
    result = place.run()
    assert result.status == 0, result.text
    after = content(place.root)
    assert {k: after[k] for k in kept} == kept and len(after) == 10


def test_a_disk_that_is_really_full(place: Place) -> None:
    disk = place.folder / "disk"
    with small_disk(disk, "60k") as remount:
        place.run(root=disk / "root").sentence("is full", "finished shards are kept")
        kept = content(disk / "root")
        assert kept and not list(disk.rglob("*.tmp-*"))
        remount("size=20m")
        assert place.run(root=disk / "root").status == 0
        assert {k: content(disk / "root")[k] for k in kept} == kept


def test_a_disk_that_fills_while_training(place: Place) -> None:
    disk = place.folder / "disk"
    with small_disk(disk, "110k") as remount:
        place.run(
            "--methods", "source", "--controls", "--figures", "False", recipe="whole", root=disk / "root"
        ).sentence("full", "finished shards are kept")
        remount("size=20m")
        assert (
            place.run(
                "--methods", "source", "--controls", "--figures", "False", recipe="whole", root=disk / "root"
            ).status
            == 0
        )


def test_a_read_only_place(place: Place) -> None:
    disk = place.folder / "disk"
    with small_disk(disk, "20m") as remount:
        assert place.run(root=disk / "root").status == 0
        remount("ro")
        place.run(root=disk / "root").sentence("cannot be written", "--root")
        place.run(root=disk / "other").sentence("cannot be written", "--root that you may write")
        diffadapt("report", "last", "--root", disk / "root").sentence("cannot be written")
        assert diffadapt("status", "--root", disk / "root").status == 0


def test_a_file_where_the_root_should_be(place: Place) -> None:
    (place.folder / "file").write_text("text")
    place.run(root=place.folder / "file").sentence("is not a folder", "give another --root")
    place.run(root="nofs://bucket/x").sentence("nofs://bucket/x", "cannot be opened")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b""], ids=["torn", "empty"])
@pytest.mark.parametrize("kind", ["aligned", "logits"])
def test_a_damaged_shard_is_named_and_made_again(
    place: Place, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    place.finish()
    shard = place.stored(kind)[0]
    good = shard.read_bytes()
    shard.write_bytes(damage(good))
    place.run().sentence(str(shard), "is damaged", "delete it and run again")
    shard.unlink()
    assert place.run().status == 0
    assert shard.read_bytes() == good


@pytest.mark.parametrize(
    ("kind", "column"), [("corrupted", "image.bytes"), ("logits", "logits.list.element")]
)
def test_one_flipped_bit_in_a_shard_does_not_reach_what_is_made_of_it(
    place: Place, kind: str, column: str
) -> None:
    place.finish()
    shard = place.stored(kind)[0]
    group = pq.ParquetFile(shard).metadata.row_group(0)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    data = bytearray(shard.read_bytes())
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    data[start + chunk.total_compressed_size - 8] ^= 1
    shard.write_bytes(data)
    if kind == "corrupted":
        for made in (*place.stored("aligned"), *place.stored("logits")):
            made.unlink()
    place.run().sentence(str(shard), "is damaged")


COMMANDS = (
    ("report", "last"),
    ("compare", "last", "last"),
    ("export", "last", "--what", "projected", "--out", "out"),
    ("cache", "gc", "--older-than-hours", "0"),
)


@pytest.mark.parametrize("number", [0, 99])
def test_a_run_of_another_format(place: Place, number: int) -> None:
    place.finish()
    file = place.run_folder() / "manifest.json"
    good = file.read_bytes()
    file.write_text(json.dumps({**json.loads(good), "format": number}))
    before = place.everything()
    for words in COMMANDS:
        diffadapt(*words, "--root", place.root).sentence(
            f"written in format {number}", "reads format", "run its recipe again"
        )
    assert place.everything() == before
    assert diffadapt("status", "last", "--root", place.root).status == 0
    assert place.run().status == 0 and file.read_bytes() == good


@pytest.mark.parametrize(
    "damaged", [b"{", b"", b"[1]", b'{"format": 1}'], ids=["torn", "empty", "list", "bare"]
)
def test_a_damaged_manifest(place: Place, damaged: bytes) -> None:
    place.finish()
    file = place.run_folder() / "manifest.json"
    good = file.read_bytes()
    file.write_bytes(damaged)
    before = place.everything()
    for words in COMMANDS:
        diffadapt(*words, "--root", place.root).sentence(
            "manifest of small-", "is damaged", "run the recipe again"
        )
    assert place.everything() == before
    assert place.run().status == 0 and file.read_bytes() == good


def test_other_damaged_files_of_a_run_folder(place: Place) -> None:
    place.finish()
    folder = place.run_folder()
    (folder / "scores.parquet").write_bytes(b"PAR1")
    diffadapt("report", "last", "--root", place.root).sentence(
        "scores of small-", "are damaged", "run its recipe again"
    )
    for text in ("{", "[1]"):
        (folder / "status.json").write_text(text)
        assert diffadapt("status", "--root", place.root).status == 0
    assert place.run().status == 0
    assert diffadapt("report", "last", "--root", place.root).status == 0


@pytest.mark.parametrize(("text", "shown"), [('{"format": 7}', "7"), ("{", "unknown"), ("[]", "unknown")])
def test_a_store_of_another_format_is_left_alone(place: Place, text: str, shown: str) -> None:
    marker = place.root / "store" / "store.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(text)
    for words in (("run", "small"), ("plan", "small"), ("cache", "ls"), ("cache", "gc"), ("status",)):
        diffadapt(*words, "--root", place.root).sentence(
            f"has format {shown}", "reads format 1", "another --root"
        )
    assert list(place.everything()) == ["store/store.json"]
