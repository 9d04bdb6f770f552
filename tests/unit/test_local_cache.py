"""Copies on this machine: private, checked, made again when damaged, tidied; nothing planted is used."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffadapt.core import local_cache
from diffadapt.core.errors import StoreError
from diffadapt.core.files import file_sha256
from diffadapt.core.local_cache import LocalCache, cache_home

NAME = "fit-" + "a" * 64
PLATFORM = Path(local_cache.__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local_cache, "_held", {})
    monkeypatch.setattr(local_cache, "_checked", {})
    return tmp_path / "cache"


def make(cache: LocalCache, name: str = NAME, size: int = 10, **notes) -> Path:
    with cache.making(name) as making:
        if making.existing is None:
            (making.folder / "sub").mkdir()
            (making.folder / "model").write_bytes(b"m" * size)
            (making.folder / "sub" / "x").write_bytes(b"x")
            making.notes.update(notes)
    copy = cache.find(name)
    assert copy is not None
    return copy.folder


def forget() -> None:
    """As another process would see it."""
    local_cache._checked.clear()
    for handle in local_cache._held.values():
        os.close(handle)
    local_cache._held.clear()


def test_a_copy_is_private_and_found_again(home):
    folder = make(LocalCache(), failures=[["k", "why"]])
    assert stat.S_IMODE((home / "copies").stat().st_mode) == 0o700
    forget()
    copy = LocalCache().find(NAME, {"model": file_sha256(folder / "model")})
    assert copy is not None and copy.notes == {"failures": [["k", "why"]]} and copy.bytes == 11
    assert LocalCache().find(NAME, {"model": "0" * 64}) is None and not folder.exists()


@pytest.mark.parametrize(
    "what", ["flip", "cut", "absent", "link", "folder gone", "index cut", "index gone", "notes"]
)
def test_what_is_damaged_is_made_again(home, what, caplog):
    folder = make(LocalCache())
    index = home / "copies" / f"{NAME}.json"
    if what == "folder gone":
        for path in (folder / "model", folder / "sub" / "x"):
            path.unlink()
    elif what == "index cut":
        index.write_bytes(index.read_bytes()[:-5])
    elif what == "notes":
        index.write_bytes(index.read_bytes().replace(b'"notes": {}', b'"notes": {"failures": []}'))
    elif what == "index gone":
        index.unlink()
    else:
        (folder / "model").unlink()
    if what in ("flip", "cut"):
        (folder / "model").write_bytes(b"m" * 9 + (b"n" if what == "flip" else b""))
    elif what == "link":
        (home / "planted").write_bytes(b"m" * 10)
        (folder / "model").symlink_to(home / "planted")
    assert LocalCache().find(NAME) is None  # in this process it was whole a moment ago
    assert (make(LocalCache()) / "model").read_bytes() == b"m" * 10
    assert "made again" in caplog.text


def test_a_change_that_keeps_size_and_time_is_seen_by_the_next_process():
    folder = make(LocalCache())
    status = (folder / "model").stat()
    (folder / "model").write_bytes(b"n" * 10)
    os.utime(folder / "model", ns=(status.st_atime_ns, status.st_mtime_ns))
    forget()
    assert LocalCache().find(NAME) is None


def test_a_planted_folder_is_not_used(home, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    home.mkdir()
    (home / "copies").symlink_to(tmp_path / "theirs")
    with pytest.raises(StoreError, match="is a link"):
        LocalCache().find(NAME)
    (home / "copies").unlink()
    (home / "copies").mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="not a folder of this user's own"):
        LocalCache().find(NAME)


def test_a_folder_that_others_may_write_is_closed(home):
    make(LocalCache())
    (home / "copies").chmod(0o777)
    assert LocalCache().find(NAME) is not None
    assert stat.S_IMODE((home / "copies").stat().st_mode) == 0o700


def test_a_copy_is_not_followed_through_a_link(home, tmp_path):
    folder = make(LocalCache())
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert LocalCache().find(NAME) is None and (tmp_path / "elsewhere" / "model").exists()


def test_a_failed_copy_leaves_nothing(home):
    with pytest.raises(RuntimeError), LocalCache().making(NAME) as making:
        (making.folder / "model").write_bytes(b"half")
        raise RuntimeError
    assert LocalCache().find(NAME) is None
    assert [p.suffix for p in (home / "copies").iterdir()] == [".lock"]


def test_a_full_disk_is_a_sentence():
    with pytest.raises(StoreError, match="is full.*DIFFADAPT_CACHE"), LocalCache().making(NAME):
        raise OSError(28, "No space left on device")


def test_the_longest_unused_goes_first_and_what_is_used_stays(home):
    cache = LocalCache(limit=2500)
    names = [f"fit-{c * 64}" for c in "abc"]
    for age, name in zip((300, 200, 100), names, strict=True):
        make(cache, name, 1000)
        os.utime(home / "copies" / f"{name}.json", (time.time() - age,) * 2)
    assert [c.name for c in cache.entries()] == names  # this process holds them all
    forget()
    assert cache.find(names[0]) is not None
    os.utime(home / "copies" / f"{names[0]}.json", (time.time() - 300,) * 2)
    make(cache, "fit-" + "d" * 64, 1000)
    assert {c.name for c in cache.entries()} == {names[0], "fit-" + "d" * 64}


def test_gc_takes_what_is_old_and_what_killed_processes_left(home):
    folder = make(LocalCache())
    forget()
    torn = home / "copies" / f"{NAME}.tmp-1-12345678"
    torn.mkdir()
    (torn / "x").write_bytes(b"123")
    os.utime(torn, (1, 1))
    cache = LocalCache()
    assert {p for p, _ in cache.collect(0, dry_run=True)} == {str(folder), str(torn)} and folder.exists()
    assert [p for p, _ in cache.collect(3600)] == [str(torn)]
    assert [p for p, _ in cache.collect(0)] == [str(folder)] and not cache.entries()


TWO = """
import sys, time
sys.path.insert(0, {platform!r})
from diffadapt.core.local_cache import LocalCache
with LocalCache().making({name!r}) as making:
    if making.existing is None:
        (making.folder / "model").write_bytes(b"m")
        time.sleep(1)
        print("made")
"""


def test_of_several_processes_one_makes_it():
    code = TWO.format(platform=str(PLATFORM), name=NAME)
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    assert sum(run.communicate()[0].count(b"made") for run in runs) == 1
    assert not any(run.returncode for run in runs) and LocalCache().find(NAME) is not None


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_home() == tmp_path / "cache"
    monkeypatch.delenv("DIFFADAPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_home() == tmp_path / "xdg" / "diffadapt"
    monkeypatch.setenv("DIFFADAPT_CACHE_GB", "much")
    with pytest.raises(StoreError, match="DIFFADAPT_CACHE_GB is 'much'"):
        LocalCache().limit()
    monkeypatch.setenv("DIFFADAPT_CACHE_GB", "0.5")
    assert LocalCache().limit() == 500_000_000


def test_notes_are_json(home):
    make(LocalCache(), left_out={"refused": 3})
    assert json.loads((home / "copies" / f"{NAME}.json").read_text())["notes"] == {"left_out": {"refused": 3}}
