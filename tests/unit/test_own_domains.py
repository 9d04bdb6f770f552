"""Domains of a user's own in the form of the benchmarks: every pair in one table."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.recipes import load
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.models.config import BackboneConfig
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from diffadapt.run.progress import Progress
from diffadapt.run.runner import ExecutionConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def picture(label: int, domain: int, i: int) -> bytes:
    image = np.full((16, 16, 3), 20 * domain + i, np.uint8)
    image[4 * label : 4 * label + 6, 2:14] = 200
    return encode_png(image)


def tree(root: Path, domains: dict[str, str], each: int = 6) -> Path:
    """``domains``: name -> its classes, a letter each."""
    for d, (domain, classes) in enumerate(domains.items()):
        for name in classes:
            for i in range(each):
                file = root / domain / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture("abc".index(name), d, i))
    return root


def recipe(root: Path, **changes):
    made = load("adapt_anything/domains")
    backbone = BackboneConfig(
        name="train", arch="cifar_resnet8", resize=16, crop=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    data = replace(made.data, path=str(root), image_size=16)
    uda = replace(made.uda, epochs=1, steps_per_epoch=2, batch_size=6, augment="shift")
    execution = ExecutionConfig(runner="local", device="cpu", trackers=())
    made = replace(made, data=data, uda=uda, backbone=backbone, execution=execution)
    return replace(made, **changes)


def rows(made, tmp_path: Path) -> list[tuple[str, str, int | None]]:
    pipeline = made.pipeline()
    pipeline.plan(Store(str(tmp_path / "store")))
    return [(row.group, row.name, row.seed) for row in pipeline.rows]


def test_every_ordered_pair_with_all_methods_and_seeds(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc", "real-world": "abc", "sketch": "abc"})
    found = rows(recipe(root), tmp_path)
    pairs = {group for group, _, _ in found}
    domains = ("photo", "real-world", "sketch")
    assert pairs == {f"{a}-{b}" for a in domains for b in domains if a != b}
    assert len(found) == 6 * 6 * 3 and ("photo-sketch", "Source only", 0) in found
    named = rows(recipe(root, transfers=("real-world-photo", "photo-real-world"), seeds=(0,)), tmp_path)
    assert {group for group, _, _ in named} == {"real-world-photo", "photo-real-world"}
    drawn = TextToImageConfig(weights="embedded:glyphs")
    synthetic = recipe(root, transfers=("synthetic-sketch",), seeds=(0,), generator=drawn)
    assert synthetic.known.describe("real-world") == "real-world"
    assert rows(synthetic, tmp_path)


def test_labels_are_bound_to_the_classes_of_all(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc", "sketch": "bc"})
    made = recipe(root, transfers=("photo-sketch",))
    assert made.class_names == ("a", "b", "c")
    assert {i.key[0]: i.label for i in made.images("sketch").source("").items} == {"b": 1, "c": 2}
    with pytest.raises(DataError, match="domain 'sketch' has no image of 'a', so it cannot be a source"):
        recipe(root).pipeline()
    (tmp_path / "names.txt").write_text("b\nc\n")
    listed = recipe(root, data=replace(made.data, classes=str(tmp_path / "names.txt")))
    with pytest.raises(DataError, match="photo have the class 'a', which .*'b', 'c'"):
        listed.pipeline()


def test_archives_and_stray_files(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc"})
    with tarfile.open(root / "sketch.tar", "w") as archive:
        for label, name in enumerate("abc"):
            info = tarfile.TarInfo(f"{name}/0.png")
            info.size = len(picture(label, 1, 0))
            archive.addfile(info, io.BytesIO(picture(label, 1, 0)))
    (root / "README.txt").write_text("ours")
    made = recipe(root, seeds=(0,))
    assert made.known.domains == ("photo", "sketch")
    assert {group for group, _, _ in rows(made, tmp_path)} == {"photo-sketch", "sketch-photo"}


def test_two_places_of_one_domain_are_refused(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc", "sketch": "abc"})
    (root / "photo.v2.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"has 'photo' and 'photo.v2.zip' for the domain 'photo'"):
        recipe(root).pipeline()
    (root / "photo.v2.zip").unlink()
    (root / "paint").symlink_to("nowhere")
    with pytest.raises(DataError, match="paint in .* leads to no file"):
        recipe(root).pipeline()


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc", "sketch": "abc"})
    cases = (
        (recipe(root, data=DataConfig()), RecipeError, "give --data, a folder with a folder a domain"),
        (
            recipe(root / "photo" / "a"),
            DataError,
            "root/photo/a has no domains: give a folder with two or more",
        ),
        (recipe(root, transfers=("photo-skech",)), RecipeError, "no transfer of root.*Did you mean 'sketch'"),
        (recipe(root, transfers=("photo-photo",)), RecipeError, "its target as its source"),
        (recipe(root, benchmark="office31"), RecipeError, "run adapt_anything/office31/all"),
    )
    for made, error, text in cases:
        with pytest.raises(error, match=text):
            made.pipeline()


def test_a_small_run_gives_one_table(tmp_path):
    root = tree(tmp_path / "root", {"photo": "abc", "sketch": "abc"})
    made = recipe(root, methods=("source_only", "mcc"), seeds=(0,))
    run = drive(
        "adapt_anything/domains",
        made,
        made.pipeline(),
        Root(str(tmp_path / "out")),
        lambda: LocalRunner(made.execution),
        progress=Progress({}, stream=io.StringIO()),
    )
    found = {(s.group, s.method) for s in run.scores()}
    methods = {method for _, method in found}
    assert found == {(pair, m) for pair in ("photo-sketch", "sketch-photo") for m in methods}
    assert len(methods) == 2 and run.has("report.html")
