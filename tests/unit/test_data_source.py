"""The uniform view over image sets: folders, globs, Parquet, embedded digits; slices and fingerprints."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from diffadapt.core.errors import DataError, ItemError, RecipeError
from diffadapt.data import embedded, hashes
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.data.items import Item
from diffadapt.data.source import open_source

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def png(seed: int, side: int = 6) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def tree(root: Path, classes: dict[str, int], side: int = 6) -> Path:
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:02d}.png").write_bytes(png(seed, side))
            seed += 1
    return root


def test_class_folders(tmp_path):
    root = tree(tmp_path / "pets", {"dog": 2, "cat": 3})
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "cat" / "more").mkdir()
    (root / "cat" / "more" / "DEEP.PNG").write_bytes(png(9))
    source = open_source(DataConfig(str(root)))
    assert source.name == "pets" and source.class_names == ("cat", "dog")
    assert [i.key for i in source.items] == [
        "cat/00.png",
        "cat/01.png",
        "cat/02.png",
        "cat/more/DEEP.PNG",
        "dog/00.png",
        "dog/01.png",
    ]
    assert [i.label for i in source.items] == [0, 0, 0, 0, 1, 1]
    assert source.read("dog/01.png") == (root / "dog" / "01.png").read_bytes()
    assert source.image("dog/01.png", 1, None).shape == (6, 6, 1)
    assert source.image("dog/01.png", 3, 12).shape == (12, 12, 3)


def test_flat_folder_and_glob_are_unlabelled(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "readme.md").write_text("x")
    source = open_source(DataConfig(str(tmp_path)))
    assert source.class_names == () and source.items == tuple(Item(f"{i}.png", None) for i in range(3))
    root = tree(tmp_path / "deep", {"a": 2, "b": 1})
    source = open_source(DataConfig(f"{root}/**/*0.png"))
    assert source.items == (Item("a/00.png", None), Item("b/00.png", None))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: (root / "empty").mkdir(), "empty"),
        (lambda root: [p.unlink() for p in root.rglob("*.png")], "no images"),
    ],
)
def test_empty_classes_and_folders_are_named(tmp_path, make, says):
    root = tree(tmp_path / "set", {"a": 1, "b": 1})
    make(root)
    with pytest.raises(DataError, match=says):
        open_source(DataConfig(str(root)))


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "embedded:faces", "nosuchprotocol://x"])
def test_missing_places(path):
    with pytest.raises(DataError):
        open_source(DataConfig(path))


def test_links_and_keys_cannot_leave_the_folder(tmp_path):
    root = tree(tmp_path / "set", {"a": 1, "b": 1})
    source = open_source(DataConfig(str(root)))
    for key in ("../secret.png", "a/../../secret.png", "/etc/passwd"):
        with pytest.raises(DataError, match="no image"):
            source.read(key)
    (tmp_path / "secret.png").write_bytes(png(1))
    os.symlink(tmp_path / "secret.png", root / "a" / "link.png")
    with pytest.raises(DataError, match="link.png"):
        open_source(DataConfig(str(root)))
    (root / "a" / "link.png").unlink()
    os.symlink(tmp_path, root / "b" / "out")
    with pytest.raises(DataError, match="out"):
        open_source(DataConfig(str(root)))
    (root / "b" / "out").unlink()
    os.symlink(root / "a" / "00.png", root / "b" / "inside.png")
    os.symlink(root / "b", root / "b" / "loop")
    assert [i.key for i in open_source(DataConfig(str(root))).items] == [
        "a/00.png",
        "b/00.png",
        "b/inside.png",
    ]


def test_class_list_orders_labels_and_must_match(tmp_path):
    root = tree(tmp_path / "set", {"a": 1, "b": 1})
    listed = tmp_path / "classes.txt"
    listed.write_text("b\na\n\n")
    source = open_source(DataConfig(str(root), classes=str(listed)))
    assert source.class_names == ("b", "a") and [i.label for i in source.items] == [1, 0]
    listed.write_text("a\nc\n")
    with pytest.raises(DataError, match="lacks 'c' and the list lacks 'b'"):
        open_source(DataConfig(str(root), classes=str(listed)))
    listed.write_text("a\na\nb\n")
    with pytest.raises(DataError, match="twice"):
        open_source(DataConfig(str(root), classes=str(listed)))


def test_parts_are_disjoint_complete_and_stratified():
    whole = open_source(DataConfig("embedded:digits"))
    parts = [open_source(DataConfig("embedded:digits", part=p)) for p in ((0.0, 0.3), (0.3, 0.5), (0.5, 1.0))]
    keys = [item.key for part in parts for item in part.items]
    assert sorted(keys) == [i.key for i in whole.items] and len(set(keys)) == len(keys)
    counts = np.bincount([i.label for i in parts[0].items])
    assert counts.min() >= 52 and counts.max() <= 55
    assert [i.key for i in parts[0].items] == sorted(i.key for i in parts[0].items)
    assert len({p.fingerprint for p in parts}) == 3


def test_a_larger_limit_only_adds():
    few, more = (
        open_source(DataConfig("embedded:digits", part=(0.2, 0.8), limit_per_class=n)) for n in (3, 7)
    )
    assert len(few.items) == 30 and len(more.items) == 70 and set(few.items) < set(more.items)


@pytest.mark.parametrize("part", [(0.5, 0.5), (-0.1, 0.5), (0.0, 1.5), (0.9, 0.1)])
def test_bad_slices(part):
    with pytest.raises(RecipeError):
        open_source(DataConfig("embedded:digits", part=part))
    with pytest.raises(RecipeError):
        open_source(DataConfig("embedded:digits", limit_per_class=0))


def test_fingerprint_follows_content_not_place(tmp_path):
    one, two = (
        tree(tmp_path / "one" / "set", {"a": 2, "b": 1}),
        tree(tmp_path / "two" / "set", {"a": 2, "b": 1}),
    )
    first = open_source(DataConfig(str(one)))
    assert first.fingerprint == open_source(DataConfig(str(two))).fingerprint
    changed = bytearray((two / "a" / "00.png").read_bytes())
    changed[-20] ^= 1
    (two / "a" / "00.png").write_bytes(bytes(changed))
    assert first.fingerprint != open_source(DataConfig(str(two))).fingerprint
    by_size = [open_source(DataConfig(str(p), fingerprint="size")).fingerprint for p in (one, two)]
    assert by_size[0] == by_size[1] != first.fingerprint
    (two / "a" / "00.png").rename(two / "b" / "07.png")
    assert by_size[1] != open_source(DataConfig(str(two), fingerprint="size")).fingerprint


def test_hashes_are_remembered_for_unchanged_files_only(tmp_path, monkeypatch):
    root = tree(tmp_path / "set", {"a": 2})
    for path in root.rglob("*.png"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = open_source(DataConfig(str(root))).fingerprint
    read: list[str] = []
    original = LocalFileSystem._open
    monkeypatch.setattr(
        LocalFileSystem, "_open", lambda fs, path, *a, **o: read.append(path) or original(fs, path, *a, **o)
    )
    assert open_source(DataConfig(str(root))).fingerprint == first and read == []
    (root / "a" / "01.png").write_bytes(png(77))
    assert open_source(DataConfig(str(root))).fingerprint != first and [Path(p).name for p in read] == [
        "01.png"
    ]
    open_source(DataConfig(str(root))).fingerprint  # noqa: B018
    assert len(read) == 2, "a file changed a moment ago must not be remembered"
    for damaged in hashes.cache_folder().iterdir():
        damaged.write_text("{ not json")
    assert open_source(DataConfig(str(root))).fingerprint != first


def test_the_memory_may_be_unwritable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "file"))
    assert len(open_source(DataConfig(str(tree(tmp_path / "set", {"a": 1})))).fingerprint) == 16


def test_object_store_locations(tmp_path):
    fs = fsspec.filesystem("memory")
    local = tree(tmp_path / "set", {"a": 2, "b": 1})
    for path in local.rglob("*.png"):
        fs.pipe_file(f"/bucket/set/{path.relative_to(local).as_posix()}", path.read_bytes())
    fs.pipe_file("/bucket/set/a/.hidden.png", b"x")
    source = open_source(DataConfig("memory://bucket/set"))
    here = open_source(DataConfig(str(local)))
    assert source.items == here.items and source.fingerprint == here.fingerprint
    assert source.read("b/00.png") == here.read("b/00.png")
    assert len(open_source(DataConfig("memory://bucket/set/a/*.png")).items) == 2


def rows(n: int, **columns) -> pa.Table:
    image = [{"bytes": png(i), "path": f"set/{i:02d}.png"} for i in range(n)]
    return pa.table({"image": image, **columns})


def test_parquet_file_with_labels_and_names(tmp_path):
    path = tmp_path / "birds" / "test.parquet"
    path.parent.mkdir()
    pq.write_table(
        rows(6, label=[1, 0, 1, 0, 2, 2], class_name=["wren", "owl", "wren", "owl", "emu", "emu"]),
        path,
        row_group_size=2,
    )
    source = open_source(DataConfig(str(path)))
    assert source.name == "birds-test" and source.class_names == ("owl", "wren", "emu")
    assert [i.label for i in source.items] == [1, 0, 1, 0, 2, 2] and source.items[3].key == "set/03.png"
    assert [source.read(i.key) for i in source.items] == [png(i) for i in range(6)]
    again = pickle.loads(pickle.dumps(source))
    assert again.read("set/04.png") == png(4) and again.fingerprint == source.fingerprint
    with pytest.raises(DataError, match="the list lacks 'emu'"):
        listed = tmp_path / "list.txt"
        listed.write_text("owl\nwren\n")
        open_source(DataConfig(str(path), classes=str(listed)))


def test_parquet_folder_unlabelled_without_usable_paths(tmp_path):
    table = rows(2).to_pylist()
    for r in table:
        r["image"]["path"] = "../up.png"
    for name in ("b", "a"):
        pq.write_table(pa.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    source = open_source(DataConfig(str(tmp_path)))
    assert [i.key for i in source.items] == ["a/00000000", "a/00000001", "b/00000000", "b/00000001"]
    assert {i.label for i in source.items} == {None} and source.read("b/00000001") == png(1)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"picture": [b"x"]}), "no column 'image'"),
        (pa.table({"image": ["text"]}), "struct"),
        (rows(2, label=[0, None]), "without a label"),
        (rows(2, label=["a", "b"]), "integer"),
        (rows(2, label=[0, 0], class_name=["a", "b"]), "label 0"),
        (rows(2, label=[0, -1]), "label -1"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path, table, says):
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=says):
        open_source(DataConfig(str(tmp_path / "x.parquet")))


def test_damaged_parquet_and_missing_bytes(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="Parquet"):
        open_source(DataConfig(str(tmp_path / "x.parquet")))
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": "b.png"}]}),
        tmp_path / "y.parquet",
    )
    source = open_source(DataConfig(str(tmp_path / "y.parquet")))
    for key in ("a.png", "b.png"):
        with pytest.raises(ItemError, match=key):
            source.image(key, 3, None)


def test_a_file_that_vanishes_is_an_item_error(tmp_path):
    root = tree(tmp_path / "set", {"a": 2})
    source = open_source(DataConfig(str(root)))
    (root / "a" / "00.png").unlink()
    with pytest.raises(ItemError, match="a/00.png"):
        source.read("a/00.png")


def test_digits_are_upsampled_bilinearly_and_split_evenly():
    keys, images, labels = embedded.digits("all")
    native, native_labels = embedded.digits_native()
    assert images.shape == (1797, 16, 16, 1) and images.dtype == np.uint8 and images.max() == 255
    index = int(keys[5].split("/")[1].removesuffix(".png"))
    assert labels[5] == native_labels[index]
    small = native[index] * (255 / 16)
    expected = (0.75 * 0.75) * small[2, 3] + 0.75 * 0.25 * (small[2, 4] + small[3, 3]) + 0.0625 * small[3, 4]
    assert images[5][5, 7, 0] == int(np.floor(expected + 0.5))
    test, train = (embedded.digits(s) for s in ("test", "train"))
    assert len(test[0]) == 600 and len(train[0]) == 1197 and not set(test[0]) & set(train[0])
    share = np.bincount(test[2]) / np.bincount(labels)
    assert np.ptp(share) < 0.01
    with pytest.raises(ValueError):
        images[0, 0, 0, 0] = 1
    with pytest.raises(DataError, match="validation"):
        embedded.digits("validation")


def test_upsample2_is_torchs_bilinear():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((2, 5, 7))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x)[:, None], scale_factor=2, mode="bilinear", align_corners=False
    )
    assert np.allclose(embedded.upsample2(x), theirs[:, 0].numpy(), atol=1e-12)


def test_sources_need_no_torch():
    code = (
        "import sys\nfrom diffadapt.data.source import open_source\nfrom diffadapt.data.config import"
        " DataConfig\ns = open_source(DataConfig('embedded:digits'))\ns.fingerprint\ns.image(s.items[0].key,"
        " 3, 16)\nimport diffadapt.data.corruptions, diffadapt.data.watermark, diffadapt.data.imagenet,"
        " diffadapt.data.export\nassert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    platform = str(Path(hashes.__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": platform})


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_real_parquet_sets():
    office = open_source(DataConfig(str(SHARED / "office31")))
    assert (
        len(office.items) == 4110 and len(office.class_names) == 31 and office.class_names[0] == "back_pack"
    )
    webcam = open_source(DataConfig(str(SHARED / "office31" / "webcam.parquet"), limit_per_class=2))
    assert len(webcam.items) == 62 and webcam.image(webcam.items[0].key, 3, 224).shape == (224, 224, 3)


def test_the_shipped_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    from diffadapt.data.embedded import digits_native
    from tests.bench.shipped import digits

    images, labels = digits_native()
    bunch = load_digits()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(images, bunch.images)
    np.testing.assert_array_equal(labels, bunch.target)
    shipped = Path(embedded.__file__).parent / "digits.npz"
    with np.load(io.BytesIO(digits())) as made, np.load(shipped) as kept:
        assert sorted(made) == sorted(kept) and all((made[n] == kept[n]).all() for n in made)


def test_a_plan_of_the_digits_does_not_import_scikit_learn():
    code = "import sys; from diffadapt.data.embedded import digits; digits(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
