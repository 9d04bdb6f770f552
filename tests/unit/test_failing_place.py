"""A place that fails for a while says nothing of what lies there: nothing counts as missing, damaged or none
for it, and nothing is removed, left out or written over."""

from __future__ import annotations

import errno
import io
import json
import re
from dataclasses import replace
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from diffadapt.commands.cache import cache
from diffadapt.core import ledger
from diffadapt.core.artifact import Rows, image_table
from diffadapt.core.errors import DamagedError, DataError, LostError, StoreError
from diffadapt.core.location import locate, there
from diffadapt.core.runs import Root, Run
from diffadapt.core.sealed import SUCCESS, Sealed, family_damage
from diffadapt.core.store import Store
from diffadapt.data.benchmark_files import _folder_names
from diffadapt.data.class_names import read_class_names
from diffadapt.data.config import DataConfig
from diffadapt.data.readers import walk
from diffadapt.data.reading import is_file, is_folder
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.source import open_scenes
from diffadapt.data.source import scan_location
from diffadapt.run.drive import _record_execution
from diffadapt.run.epochs import read_epochs
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.verify import verify

DIGEST = "0123456789ab" + "f" * 52
FIT = f"classifier/toy-{DIGEST[:12]}"
SHARD = "images/digits-0123456789ab/all-0.parquet"


class Flaky(MemoryFileSystem):
    """An object store of which what matches ``fails`` cannot be asked."""

    protocol = "flaky"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    fails: ClassVar[str] = ""
    exists = AbstractFileSystem.exists  # as object stores have them
    isfile = AbstractFileSystem.isfile
    isdir = AbstractFileSystem.isdir

    def _ask(self, path) -> None:
        if self.fails and re.search(self.fails, str(path)):
            raise OSError(errno.EIO, "We encountered an internal error.")

    def info(self, path, **options):
        self._ask(path)
        return super().info(path, **options)

    def cat_file(self, path, *args, **options):
        self._ask(path)
        return super().cat_file(path, *args, **options)

    def _open(self, path, mode="rb", **options):
        if "r" in mode:
            self._ask(path)
        return super()._open(path, mode, **options)


@pytest.fixture
def place(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "store", {})
    monkeypatch.setattr(Flaky, "pseudo_dirs", [""])
    monkeypatch.setattr(Flaky, "fails", "")
    return "flaky://bucket/root"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def filled(place: str, tmp_path) -> Root:
    root = Root(place)
    root.store.prepare()
    folder = tmp_path / "fit"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(2000))
    (folder / "metrics.json").write_text("{}")
    Sealed(root.store, FIT).commit(DIGEST, str(folder))
    root.store.commit(SHARD, Rows(image_table(["a"], [0], [png()], [0])), {"digest": "x", "key": "all-0"})
    run = Run(root, "toy-1")
    run.write("manifest.json", json.dumps({"format": 1}).encode())
    run.write("execution.json", json.dumps({"made": {"images": 5}, "seconds": 9.0}).encode())
    run.seal()
    return root


@pytest.mark.parametrize("fails", ["model.safetensors", "_SUCCESS", "all-0.parquet", "execution.json"])
def test_verify_removes_nothing_while_the_store_fails(place, tmp_path, monkeypatch, fails):
    root = filled(place, tmp_path)
    before = dict(Flaky.store)
    monkeypatch.setattr(Flaky, "fails", fails)
    found = list(verify(root))
    for damage in found:
        damage.drop()
    (unread,) = [d for d in found if d.unread]
    assert "failed at" in unread.unread and unread.names == () and unread.files == 0
    assert Flaky.store.keys() == before.keys()
    monkeypatch.setattr(Flaky, "fails", "")
    assert not any(damage.names or damage.unread for damage in verify(root))


def test_verify_goes_on_after_what_cannot_be_read(place, tmp_path, monkeypatch, capsys):
    """Damage elsewhere is found, removed where that is wanted, and what could not be read is counted."""
    root = filled(place, tmp_path)
    root.runs.write_bytes("toy-1/execution.json", b"{}")
    monkeypatch.setattr(Flaky, "fails", "model.safetensors|all-0.parquet")
    assert cache(["verify", "--root", place]) == 1
    said = capsys.readouterr().out
    assert "damaged: runs/toy-1/execution.json" in said and "1 damaged, 2 not read" in said
    assert f"not read: {FIT}: " in said and "give the same command again" in said
    assert cache(["verify", "--root", place, "--repair"]) == 1
    assert "1 damaged and removed, 2 not read" in capsys.readouterr().out
    monkeypatch.setattr(Flaky, "fails", "")
    assert root.store.exists(SHARD) and not root.runs.exists("toy-1/execution.json")
    assert not any(damage.unread for damage in verify(root))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("fails", ["instances.json", "gtav.txt", "split.mat"])
def test_lists_of_scenes_whose_place_fails_are_neither_absent_nor_of_another_kind(
    place, monkeypatch, fails, listed
):
    """Whether the place can tell that the file is there or not even that."""
    if listed:
        monkeypatch.setattr(Flaky, "info", MemoryFileSystem.info)
    store, _ = locate(place, DataError)
    for name in ("instances.json", "gtav.txt", "split.mat", "images/00001.png", "labels/00001.png"):
        store.pipe_file(f"{place}/{name}", png())
    gta5 = SceneConfig(layout="gta5", path=place, split="val", split_file="gtav.txt", partial=True)
    config = {
        "instances.json": SceneConfig(layout="coco", path=place, labels="instances.json"),
        "gtav.txt": gta5,
        "split.mat": replace(gta5, split_file=""),
    }[fails]
    monkeypatch.setattr(Flaky, "fails", fails)
    with pytest.raises(DataError, match="cannot be read .*reports an error.*: check the disk") as caught:
        open_scenes(config)
    for wrong in ("no list of frames", "is not a COCO", "replace split.mat", "has no instances"):
        assert wrong not in str(caught.value)


def test_a_fit_is_not_sealed_with_what_could_not_be_read(place, tmp_path, monkeypatch):
    store = filled(place, tmp_path).store
    old = json.dumps({"digest": DIGEST}).encode()
    store.write_bytes(f"{FIT}/{SUCCESS}", old)
    monkeypatch.setattr(Flaky, "fails", "model.safetensors")
    with pytest.raises(StoreError, match="failed at"):
        Sealed(store, FIT).checksums()
    monkeypatch.setattr(Flaky, "fails", "")
    assert store.read_bytes(f"{FIT}/{SUCCESS}") == old
    Sealed(store, FIT).demand()


def test_a_store_that_fails_has_neither_lost_nor_damaged_a_file(place, tmp_path, monkeypatch):
    store = filled(place, tmp_path).store
    monkeypatch.setattr(Flaky, "fails", "all-0|family|_SUCCESS")
    for ask in (
        lambda: store.exists(SHARD),
        lambda: store.header(SHARD),
        lambda: store.load(SHARD),
        lambda: store.create(SHARD, b""),
        lambda: Sealed(store, FIT).exists(),
        lambda: list(Sealed(store, FIT).damage()),
        lambda: family_damage(store, FIT),
    ):
        with pytest.raises(StoreError, match="failed at") as caught:
            ask()
        assert not isinstance(caught.value, LostError)
    monkeypatch.setattr(Flaky, "fails", "")
    assert store.exists(SHARD) and not store.exists(SHARD + "x")
    store.write_bytes(SHARD, store.read_bytes(SHARD)[:-9])
    with pytest.raises(DamagedError, match="is damaged"):
        store.header(SHARD)


def test_a_run_keeps_its_files_while_its_place_fails(place, tmp_path, monkeypatch):
    root = filled(place, tmp_path)
    run = Run(root, "toy-1")
    monkeypatch.setattr(Flaky, "fails", "execution.json")
    with pytest.raises(StoreError, match="failed at"):
        run.unseal()
    work = type("Work", (), {"made": {"logits": 1}, "batch_sizes": {}, "runner_name": "local"})()
    with pytest.raises(StoreError, match="failed at"):
        _record_execution(Run(root, "toy-1"), work, 1.0)
    monkeypatch.setattr(Flaky, "fails", "")
    assert json.loads(Run(root, "toy-1").read("execution.json"))["made"] == {"images": 5}


def test_a_finished_trial_is_not_open_while_its_place_fails(place, monkeypatch):
    root = Root(place)
    root.sweeps.write_bytes("s/trials/a/result.json", b"{}")
    root.sweeps.write_bytes("s/trials/a/epochs.json", b'{"adjusted": {}, "epochs": {"1": 0.5}}')
    sweep = Sweep(root, "s")
    assert sweep.results() == []  # damaged: it is carried out again
    monkeypatch.setattr(Flaky, "fails", "result.json|epochs.json")
    with pytest.raises(StoreError, match="failed at"):
        sweep.results()
    with pytest.raises(StoreError, match="failed at"):
        read_epochs(sweep.trial("a"))


def test_the_ledger_is_not_merged_without_what_cannot_be_read(place, monkeypatch):
    ours = Store(f"{place}/ledger")
    for i in range(ledger.MERGE_FILES + 1):
        ours.write_bytes(f"{i + 1}-1-aaaaaa.jsonl", b"{}\n")
    monkeypatch.setattr(Flaky, "fails", "/7-1-")
    with pytest.raises(StoreError, match="failed at"):
        ledger.merge(ours)
    assert len(ours.list("")) == ledger.MERGE_FILES + 1


def images(place: str, names: list[str]) -> None:
    fs, root = locate(place, DataError)
    for name in names:
        fs.pipe_file(f"{root}/{name}", png())


def test_no_image_of_a_glob_is_left_out(place, monkeypatch):
    images(f"{place}/photos", ["1.png", "2.png", "3.png"])
    config = DataConfig(path=f"{place}/photos/*.png")
    whole = scan_location(config)
    monkeypatch.setattr(Flaky, "fails", "2.png")
    try:
        assert scan_location(config).items == whole.items
    except DataError as error:
        assert "internal error" in str(error)


def tables(place: str) -> dict[str, str]:
    fs, root = locate(place, DataError)
    for name in ("a", "b"):
        buffer = io.BytesIO()
        pq.write_table(image_table([f"{name}.png"], [0], [png()], [0]), buffer)
        fs.pipe_file(f"{root}/{name}.parquet", buffer.getvalue())
    return {name: f"{root}/{name}.parquet" for name in ("a", "b")}


def test_no_table_of_images_is_left_out(place, monkeypatch):
    paths = tables(f"{place}/set")
    config = DataConfig(path=f"{place}/set")
    assert len(scan_location(config).items) == 2
    monkeypatch.setattr(Flaky, "fails", "b.parquet")
    with pytest.raises(DataError, match="run the same command"):
        scan_location(config)
    monkeypatch.setattr(Flaky, "fails", "")
    Flaky.store[paths["b"]].truncate(200)
    with pytest.raises(DataError, match="b.parquet is not readable Parquet"):
        scan_location(config)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"file": ["x"], "class": ["y"]}), buffer)
    fsspec.filesystem("flaky").pipe_file(paths["b"], buffer.getvalue())
    found = scan_location(config)
    assert len(found.items) == 1 and "hold no column of images" in " ".join(found.notes)


def test_a_place_that_fails_is_not_empty(place, monkeypatch):
    images(f"{place}/set", ["clipart/dog/1.png"])
    fs, root = locate(f"{place}/set", DataError)
    assert is_folder(fs, f"{root}/clipart") and is_file(fs, f"{root}/clipart/dog/1.png")
    assert not is_folder(fs, f"{root}/none") and there(fs, f"{root}/none") is None
    monkeypatch.setattr(Flaky, "fails", "clipart|store.json")
    for ask in (is_folder, is_file):
        with pytest.raises(DataError, match="run the same command"):
            ask(fs, f"{root}/clipart")
    known = type("Known", (), {"domains": ("clipart",), "folders": staticmethod(lambda name: (name,))})()
    with pytest.raises(DataError, match="run the same command"):
        _folder_names(known, fs, root)


def test_a_store_among_images_is_known_or_said(place, monkeypatch):
    images(f"{place}/photos", ["1.png", "store/images/2.png"])
    fs, root = locate(f"{place}/photos", DataError)
    fs.pipe_file(f"{root}/store/store.json", b'{"format": 1}')
    assert list(walk(fs, root).files) == ["1.png"]
    monkeypatch.setattr(Flaky, "fails", "store.json")
    with pytest.raises(OSError, match="internal error"):
        walk(fs, root)
    with pytest.raises(DataError, match="internal error"):
        scan_location(DataConfig(path=f"{place}/photos"))


def test_a_class_list_whose_place_fails_is_named(place, monkeypatch):
    class EndpointConnectionError(Exception):
        """As botocore has it: no OSError."""

    EndpointConnectionError.__module__ = "botocore.exceptions"

    def fails(self, path, **options):
        raise EndpointConnectionError("Could not connect")

    monkeypatch.setattr(Flaky, "open", fails)
    with pytest.raises(DataError, match=r"class list .*classes\.txt cannot be read \(Could not connect"):
        read_class_names(f"{place}/classes.txt")
