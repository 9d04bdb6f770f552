"""The store on local disks, in memory and on S3: whole files or none, readable names, errors that say what to
do."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diffadapt.core import store as store_module
from diffadapt.core.artifact import Failure, Rows, image_table, scene_table, to_parquet
from diffadapt.core.errors import StoreError
from diffadapt.core.runs import Root
from diffadapt.core.store import Store, safe_name
from diffadapt.data.image import encode_png

PLATFORM = Path(store_module.__file__).parents[2]


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def some_rows(n: int = 3, failures=()) -> Rows:
    keys = [f"a/0/{i}.png" for i in range(n)]
    return Rows(
        image_table(
            keys, [i % 2 if i else None for i in range(n)], [png(i) for i in range(n)], list(range(n))
        ),
        list(failures),
    )


@pytest.fixture(params=["path", "file://", "spaces", "memory://", "s3://"])
def place(request, tmp_path) -> str:
    if request.param == "s3://":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    if request.param == "memory://":
        return f"memory://{tmp_path.name}"
    if request.param == "file://":
        return f"file://{tmp_path}/root"
    return str(tmp_path / ("a folder with  spaces" if request.param == "spaces" else "root"))


def test_everything_on_every_kind_of_place(place):
    store = Store(place)
    store.prepare()
    store.prepare()
    assert store.list("nowhere") == set() and not store.exists("k/f/x.parquet")
    rows = some_rows(failures=[Failure("bad", "why")])
    name = store.shard_path("kind", "my label/ü", "f" * 16, "a/0 b", "d" * 16)
    assert name == f"kind/my-label-{'f' * 12}/a-0-b-{'d' * 12}.parquet"
    store.commit(name, rows, {"digest": "d"})
    assert store.exists(name) and store.list("kind") == {f"my-label-{'f' * 12}"}
    assert store.list(name.rpartition("/")[0]) == {name.rpartition("/")[2]}
    loaded = store.load(name)
    assert loaded.table.equals(rows.table) and loaded.failures == rows.failures
    assert (
        store.header(name) == (3, rows.failures, rows.warnings)
        and store.headers([name, name]) == [store.header(name)] * 2
    )
    before = store.read_bytes(name)
    store.commit(name, rows, {"digest": "d"})
    assert store.read_bytes(name) == before
    copy = pickle.loads(pickle.dumps(store))
    assert copy.load(name).table.equals(rows.table)
    (entry,) = store.entries()
    assert (
        entry["path"] == name.rpartition("/")[0]
        and entry["bytes"] == len(before)
        and time.time() - entry["modified"] < 3600
    )
    store.remove(name)
    store.remove(name)
    assert not store.exists(name) and list(store.entries()) == []


def test_what_another_writer_adds_is_seen_at_once(place):
    ours, theirs = Store(place), Store(place)
    ours.prepare()
    theirs.write_bytes("k/f/one", b"1")
    assert ours.list("k/f") == {"one"}
    theirs.write_bytes("k/f/two", b"2")
    assert ours.exists("k/f/two") and ours.list("k/f") == {"one", "two"}


def test_garbage_goes_and_what_is_kept_stays(place):
    store = Store(place)
    store.prepare()
    for name in (
        "k/a-1/x.parquet",
        "k/a-1/y.parquet",
        "k/a-1/family.json",
        "k/b-2/z.parquet",
        "k/b-2/family.json",
        "fit/c-3/model",
        "fit/c-3/_SUCCESS",
        "fit/d-4/model",
        ".checkpoints/e/1",
    ):
        store.write_bytes(name, b"12345")
    keep = {"k/a-1/x.parquet", "fit/c-3"}
    wanted = {"k/a-1/y.parquet", "k/b-2/z.parquet", "k/b-2/family.json", "fit/d-4/model", ".checkpoints/e/1"}
    assert store.collect_garbage(keep, older_than=3600, dry_run=False) == []
    assert {n for n, _ in store.collect_garbage(keep, older_than=-5, dry_run=True)} == wanted
    assert store.exists("k/b-2/z.parquet")
    assert sorted(store.collect_garbage(keep, older_than=-5, dry_run=False)) == sorted((n, 5) for n in wanted)
    assert [e["path"] for e in store.entries()] == ["fit/c-3", "k/a-1"]
    assert (
        store.exists("k/a-1/x.parquet")
        and store.exists("k/a-1/family.json")
        and store.exists("fit/c-3/model")
    )


def test_a_reader_never_sees_a_torn_file(tmp_path):
    store = Store(str(tmp_path))
    payloads = [bytes([i]) * 2_000_000 for i in (1, 2)]
    store.write_bytes("x", payloads[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for p in payloads:
                store.write_bytes("x", p)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(store.read_bytes("x") in payloads for _ in range(100))
    finally:
        stop.set()
        writer.join()


KILLED = """
import os, signal, sys
sys.path.insert(0, {platform!r})
from diffadapt.core import files, store
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(files.os, {at!r}, die)
store.Store({root!r}).write_bytes("k/f/x.parquet", b"1" * 100000)
"""


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_writer_killed_before_the_rename_leaves_nothing_visible(tmp_path, at):
    code = subprocess.run(
        [sys.executable, "-c", KILLED.format(platform=str(PLATFORM), root=str(tmp_path), at=at)]
    ).returncode
    assert code == -9
    store = Store(str(tmp_path))
    assert not store.exists("k/f/x.parquet")
    (left,) = (tmp_path / "k" / "f").iterdir()
    assert left.name.startswith("x.parquet.tmp-") and store.list("k/f") == store.files("k/f").keys() == set()
    store.write_bytes("k/f/x.parquet", b"2")
    assert store.read_bytes("k/f/x.parquet") == b"2"
    store.collect_garbage({"k/f/x.parquet"}, older_than=-5, dry_run=False)
    assert store.list("k/f") == {"x.parquet"} and not left.exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_damaged_parquet_is_named(tmp_path, damage):
    store = Store(str(tmp_path))
    store.commit("k/f/x.parquet", some_rows(50), {})
    data = bytearray(store.read_bytes("k/f/x.parquet"))
    if damage == "flipped":
        data[len(data) // 3] ^= 0x40
    (tmp_path / "k/f/x.parquet").write_bytes(
        {"empty": b"", "truncated": bytes(data[:-20]), "flipped": bytes(data), "text": b"hello" * 100}[damage]
    )
    with pytest.raises(StoreError, match="k/f/x.parquet is damaged.*delete it"):
        store.load("k/f/x.parquet")
    if damage != "flipped":  # the header knows nothing of the pages
        with pytest.raises(StoreError, match="k/f/x.parquet is damaged"):
            store.header("k/f/x.parquet")


def test_errors_are_sentences(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "s"))
    store.prepare()
    with pytest.raises(StoreError, match="has no k/x"):
        store.load("k/x")
    with pytest.raises(StoreError, match="has no k/x"):
        store.header("k/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        Store(str(tmp_path / "file" / "sub")).prepare()
    (tmp_path / "s" / "store.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="format 99.*another --root"):
        store.prepare()
    (tmp_path / "s" / "store.json").write_text("[")
    with pytest.raises(StoreError, match="format unknown by its store.json.*delete it"):
        store.prepare()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store("nonsense://x/y")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(StoreError, match="disk.*full"):
        store.write_bytes("k/x", b"1")
    assert store.list("k") == set()


def test_a_missing_bucket_and_refused_credentials_are_sentences(s3, monkeypatch):
    with pytest.raises(StoreError, match="failed at store.json"):
        Store("s3://no-such-bucket/x").prepare()
    from botocore.exceptions import NoCredentialsError

    store = Store(f"{s3}/x")
    monkeypatch.setattr(store.fs, "info", lambda *a, **k: (_ for _ in ()).throw(NoCredentialsError()))
    with pytest.raises(StoreError, match="credentials"):
        store.exists("x")


def test_relative_places_survive_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Root("here")
    packed = pickle.dumps(root.store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(packed).root == str(tmp_path / "here" / "store")
    assert root.location == str(tmp_path / "here")


def test_safe_names():
    assert safe_name("a/b c:ü") == "a-b-c" and safe_name("///") == "x" and len(safe_name("y" * 300)) == 100


def test_shards_open_with_pandas_pyarrow_and_datasets(tmp_path):
    import pandas as pd
    import pyarrow.parquet as pq

    store = Store(str(tmp_path))
    store.commit("k/f/x.parquet", some_rows(3), {})
    file = str(tmp_path / "k/f/x.parquet")
    frame = pd.read_parquet(file)
    assert list(frame["key"]) == ["a/0/0.png", "a/0/1.png", "a/0/2.png"]
    assert np.asarray(Image.open(io.BytesIO(frame["image"][2]["bytes"])))[0, 0, 0] == 2
    table = pq.read_table(file)
    assert table.column("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded[1]["image"], Image.Image) and loaded[1]["image"].getpixel((0, 0)) == (1, 1, 1)
    assert loaded[0]["label"] is None and loaded[1]["label"] == 1


def test_scenes_open_with_datasets(tmp_path):
    """Label maps are pictures too, boxes are lists, and further columns do not stand in the way."""
    datasets = pytest.importorskip("datasets")
    picture, labels = encode_png(np.zeros((4, 6, 3), np.uint8)), encode_png(np.full((4, 6), 3, np.uint8))
    table = scene_table(
        ["a", "b"],
        [picture] * 2,
        [labels, None],
        objects=[[{"category": 1, "bbox": [0, 1, 2, 3], "crowd": False}], None],
    )
    file = tmp_path / "scenes.parquet"
    file.write_bytes(to_parquet(Rows(table.append_column("accepted", pa.array([True, False]))), {}))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert (
        loaded[0]["annotation"].getpixel((0, 0)) == 3
        and loaded[1]["annotation"] is None
        and loaded["accepted"][:] == [True, False]
    )
    assert loaded[0]["objects"] == [{"category": 1, "bbox": [0.0, 1.0, 2.0, 3.0], "crowd": False}]


def test_provenance_is_in_the_file(tmp_path):
    import pyarrow.parquet as pq

    store = Store(str(tmp_path))
    store.commit("x.parquet", some_rows(1, [Failure("k", "r")]), {"digest": "abc", "key": "s"})
    about = json.loads(pq.read_metadata(tmp_path / "x.parquet").metadata[b"diffadapt"])
    assert len(about.pop("sha256")) == 64
    assert about == {"digest": "abc", "key": "s", "failures": [["k", "r"]], "rows": 1}
    assert os.listdir(tmp_path) == ["x.parquet"]
