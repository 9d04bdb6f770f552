"""Object stores are asked for many files with few requests, and for several at a time."""

from __future__ import annotations

import json
import threading

from fsspec.implementations.memory import MemoryFileSystem

from diffadapt.commands.status import _all
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from diffadapt.data import hashes
from diffadapt.data.hashes import hash_files


class Objects(MemoryFileSystem):
    """An object store's file system: a version of each file, and every request counted."""

    protocol = "objects"
    async_impl = True
    cachable = False
    store: dict = {}
    pseudo_dirs = [""]

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def ls(self, path, detail=True, **more):
        self.asked.append("ls")
        return [self._told(i) for i in super().ls(path, detail=True)]

    def info(self, path, **more):
        self.asked.append("info")
        return self._told(super().info(path))

    def _told(self, info):
        return (
            {**info, "ETag": f"{len(self.store[info['name']].getvalue())}"}
            if info["type"] == "file"
            else info
        )

    def open(self, path, mode="rb", **more):
        if mode == "rb":
            self.asked.append("get")
        return super().open(path, mode, **more)


def test_a_folder_of_files_is_one_request(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path))
    fs = Objects()
    paths = [f"/b/{folder}/{i}.png" for folder in "xyz" for i in range(20)] + ["/b/alone.png"]
    for path in paths:
        fs.pipe_file(path, path.encode())
    first = hash_files(fs, "b", paths)
    assert list(first) == paths and len(set(first.values())) == 61
    assert fs.asked.count("get") == 61 and fs.asked.count("ls") == 3 and fs.asked.count("info") == 1
    fs.asked.clear()
    assert hash_files(fs, "b", paths) == first and sorted(fs.asked) == ["info", "ls", "ls", "ls"]
    fs.pipe_file(paths[5], b"another")
    assert hash_files(fs, "b", paths)[paths[5]] != first[paths[5]]


def test_few_files_are_asked_for_singly(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path))
    fs = Objects()
    for i in range(100):
        fs.pipe_file(f"/c/{i}.png", bytes([i]))
    hash_files(fs, "c", ["/c/1.png", "/c/2.png"])
    assert "ls" not in fs.asked


def test_requests_overlap(tmp_path, monkeypatch):
    """Each reading waits for three more: one after the other, none would go on."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path))
    fs, four = Objects(), threading.Barrier(4, timeout=20)
    paths = [f"/d/{i}.png" for i in range(8)]
    for path in paths:
        fs.pipe_file(path, path.encode())
    monkeypatch.setattr(hashes, "_hash", lambda fs, path: str(four.wait()) + path)
    assert len(hash_files(fs, "d", paths)) == 8


def test_runs_are_listed_with_overlapping_requests(monkeypatch):
    root, four = Root("memory://listed"), threading.Barrier(4, timeout=20)
    for i in range(4):
        status = {"state": "finished", "updated": float(i), "nodes": {}}
        root.runs.write_bytes(f"run-{i}/status.json", json.dumps(status).encode())
    read = Store.read_bytes

    def waiting(self: Store, name: str) -> bytes:
        four.wait()
        return read(self, name)

    monkeypatch.setattr(Store, "read_bytes", waiting)
    assert root.names() == [f"run-{i}" for i in (3, 2, 1, 0)]
    assert [line.split()[0] for line in _all(root)] == root.names()
