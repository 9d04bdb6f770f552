"""`cache verify`: every kind of stored file that is damaged is named, removed on request, and made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.badinput import Place, diffadapt


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path, monkeypatch)
    place.finish(whole=True)
    return place


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 16
    file.write_bytes(data[: len(data) // 3] if how == "cut" else bytes(data if how == "flip" else len(data)))


KINDS = {
    "a shard": "store/corrupted/*/*.parquet",
    "predictions": "store/logits/*/*.parquet",
    "weights of a fit": "store/classifier/*/model.safetensors",
    "metrics of a fit": "store/classifier/*/metrics.json",
    "the seal of a fit": "store/classifier/*/_SUCCESS",
    "a family of shards": "store/logits/*/family.json",
    "the family of a fit": "store/classifier/*/family.json",
    "a manifest": "runs/*/manifest.json",
    "scores": "runs/*/scores.parquet",
    "a report": "runs/*/report.html",
    "what was planned": "runs/*/planned.json",
    "checksums": "runs/*/SHA256SUMS",
}


def stable(place: Place) -> dict[str, bytes]:
    """What does not depend on the hour: shards, models, scores, manifest."""
    ends = (".parquet", ".safetensors", "manifest.json", "family.json")
    return {k: v for k, v in place.everything().items() if k.endswith(ends)}


@pytest.mark.parametrize("how", ["flip", "cut", "zero"])
def test_what_is_damaged_is_found_removed_and_made_again(place: Place, how: str) -> None:
    words = ("cache", "verify", "--root", place.root)
    whole = diffadapt(*words)
    assert whole.status == 0 and " 0 damaged" in whole.output, whole.text
    before, names = stable(place), []
    for pattern in KINDS.values():
        file = sorted(place.root.glob(pattern))[0]
        damage(file, how)
        names.append(file.relative_to(place.root))
    found = diffadapt(*words)
    assert found.status == 1 and "Traceback" not in found.text
    lines = [line for line in found.output.splitlines() if line.startswith("damaged: ")]
    # one file may stand for its folder: without its seal nothing is known of a fit's files
    seals = ("SHA256SUMS", "_SUCCESS")
    for name in names:
        folder = f"{Path(*name.parts[1:-1])}" if name.parts[0] == "store" else f"runs/{name.parts[1]}"
        told = f"damaged: {folder}/{name.name}"
        assert told in lines or any(f"damaged: {folder}/{seal}" in lines for seal in seals), (name, lines)
    assert diffadapt(*words, "--repair").status == 0
    assert diffadapt(*words).status == 0
    again = place.run_whole(methods="source")
    assert again.status == 0, again.text
    assert stable(place) == before and " 0 damaged" in diffadapt(*words).output


@pytest.mark.parametrize("file", ["model.safetensors", "metrics.json", "_SUCCESS"])
def test_a_damaged_fit_is_never_served(place: Place, file: str) -> None:
    """A flipped bit of a trained model: earlier, rc 0 and other predictions."""
    (path,) = place.root.glob(f"store/classifier/*/{file}")
    damage(path, "flip")
    for shard in place.stored("logits"):
        shard.unlink()
    place.run_whole(methods="source").sentence(file, "is damaged", "cache verify --repair")
    assert not place.stored("logits")


def test_a_damaged_family_is_a_sentence_and_written_anew(place: Place) -> None:
    family = sorted(place.root.glob("store/logits/*/family.json"))[0]
    good = family.read_bytes()
    family.write_text("{")
    entry = f"logits/{family.parent.name}"
    why = diffadapt("cache", "why", entry, entry, "--root", place.root)
    why.sentence("family.json", "is damaged")
    assert place.run_whole(methods="source").status == 0 and family.read_bytes() == good


@pytest.mark.parametrize("folder", ["store", "runs"])
def test_a_damaged_marker_is_named_and_may_be_deleted(place: Place, folder: str) -> None:
    before = stable(place)
    marker = place.root / folder / "store.json"
    marker.write_text("{")
    for words in (("cache", "verify"), ("run", "small")):
        diffadapt(*words, "--root", place.root).sentence(
            f"{folder} has format unknown", "store.json", "delete"
        )
    marker.unlink()
    assert place.run_whole(methods="source").status == 0 and stable(place) == before
    assert diffadapt("cache", "verify", "--root", place.root).status == 0 and marker.exists()


def test_a_damaged_ledger_is_counted_not_believed(place: Place) -> None:
    (entry,) = list(place.root.glob("ledger/*.jsonl"))[:1]
    line = json.loads(entry.read_text().splitlines()[0])
    assert line["seconds"] > 0
    entry.write_text(entry.read_text().replace('"seconds": ', '"seconds": 9', 1))
    assert f'"seconds": 9{line["seconds"]}'[:14] in entry.read_text()
    from diffadapt.core.ledger import by_digest
    from diffadapt.core.runs import Root

    assert line["digest"] not in by_digest(Root(str(place.root)).ledger)


def test_copies_on_this_machine_are_listed(place: Place, monkeypatch, tmp_path) -> None:
    from diffadapt.core.local_cache import LocalCache

    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    name = "fit-" + "a" * 64
    with LocalCache().making(name) as making:
        (making.folder / "model").write_bytes(b"m" * 1000)
    out = diffadapt("cache", "ls", "--root", place.root).output
    assert name[:60] in out and "1.0 kB" in out and str(tmp_path / "cache") in out


def test_gc_collects_what_killed_writers_left_and_export_never_copies_it(place: Place, tmp_path) -> None:
    (model,) = place.root.glob("store/classifier/*")
    left = model / "config.json.tmp-3821-0f3c9a1b"
    left.write_bytes(b"half")
    (run,) = place.root.glob("runs/whole-*")
    also = run / "model" / "config.json.tmp-3821-0f3c9a1b"
    also.parent.mkdir(exist_ok=True)
    also.write_bytes(b"half")
    node = next(n for n, v in json.loads((run / "manifest.json").read_text())["nodes"].items()
                if v["kind"] == "classifier")  # fmt: skip
    done = diffadapt("export", "last", "--what", node, "--out", tmp_path / "out", "--root", place.root)
    assert done.status == 0 and not list((tmp_path / "out").rglob("*.tmp-*")), done.text
    gc = ("cache", "gc", "--root", place.root)
    assert left.name not in diffadapt(*gc).output and left.exists(), "its writer may be at work"
    import os

    for path in (left, also):
        os.utime(path, (1, 1))
    assert diffadapt(*gc).output.count(left.name) == 2 and not left.exists() and not also.exists()


def test_checksums_that_end_within_a_name_are_damaged_themselves(place: Place) -> None:
    sums = place.run_folder() / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes()[:-4])
    found = diffadapt("cache", "verify", "--root", place.root)
    lines = [line for line in found.output.splitlines() if line.startswith("damaged: ")]
    assert found.status == 1 and lines == [f"damaged: runs/{place.run_folder().name}/SHA256SUMS"], found.text
