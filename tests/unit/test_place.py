"""Outputs that are whole or not there, and what the system's errors are said to mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest

from diffadapt.core import place
from diffadapt.core.causes import full_disk, of_system
from diffadapt.core.errors import StoreError
from diffadapt.run.executor import evidence


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    "end", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt(), RuntimeError("a bug")]
)
def test_a_folder_that_was_not_filled_is_as_before(tmp_path: Path, there: bool, end: BaseException) -> None:
    out = tmp_path / "a" / "out"
    if there:
        out.mkdir(parents=True)
        (out / "mine").write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(StoreError if isinstance(end, OSError) else type(end)),
        place.new_folder(out) as scratch,
    ):
        (Path(scratch) / "config.json").write_text("{}")
        assert not (out / "config.json").exists()
        raise end
    assert tree(tmp_path) == before


def test_a_filled_folder_takes_its_place_and_leaves_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        with place.new_folder(tmp_path / "out") as scratch:
            (Path(scratch) / "part").mkdir()
            (Path(scratch) / "part" / "x").write_text("x")
        (tmp_path / "out" / "mine").write_text("mine")
    assert tree(tmp_path) == ["out", "out/mine", "out/part", "out/part/x"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_on_an_object_store_what_was_written_goes_again() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/place-test/out/mine", b"mine")
    with pytest.raises(RuntimeError), place.new_folder("memory://place-test/out"):
        fs.pipe_file("/place-test/out/half", b"half")
        raise RuntimeError
    assert fs.find("/place-test") == ["/place-test/out/mine"]


def test_errors_of_what_is_read_meanwhile_are_not_put_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), place.new_folder(tmp_path / "out"):
        open(tmp_path / "input")


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "file"])
def test_a_name_that_cannot_be_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    out = tmp_path / name
    with (
        pytest.raises(StoreError, match=r"^--out .* (shorten it|give another place)\.$"),
        place.new_folder(out),
    ):
        raise AssertionError("the block was entered")
    if name != "file":
        for write in (place.demand_writable, lambda o: place.write_file(o, b"x")):
            with pytest.raises(StoreError, match=r"^--out .* (shorten it|give another place)\.$"):
                write(str(out))
    assert tree(tmp_path) == ["file"]


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "predictions.parquet"
    out.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="your quota is used up"):
            place.write_file(str(out), b"new")
    assert out.read_bytes() == b"old" and tree(tmp_path) == ["predictions.parquet"]
    place.write_file(str(out), b"new")
    assert out.read_bytes() == b"new"


def hidden(number: int) -> Exception:
    """An error of a library that met ``number`` and raised another one."""
    try:
        try:
            raise OSError(number, os.strerror(number), "/tmp/of-torch")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  # as torch.save has it: by context alone
    except RuntimeError as error:
        return error


class Carrying(Exception):
    """As Ray's errors carry theirs."""

    def __init__(self, cause: Exception):
        super().__init__("a task failed")
        self.cause = cause


FULL = [
    hidden(errno.ENOSPC),
    hidden(errno.EDQUOT),
    Carrying(hidden(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ValueError("I/O error: No space left on device (os error 28)"),
    FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_a_full_disk_is_known_under_whatever_hides_it(error: Exception) -> None:
    said = evidence(error)
    assert said.startswith("StoreError: The disk that holds ") and "free space" in said and "\n" not in said
    assert "free space" in (of_system(error) or "")


def test_other_errors_keep_their_evidence() -> None:
    for error in (hidden(errno.EINVAL), RuntimeError("shape mismatch"), FileNotFoundError(2, "gone", "x")):
        assert full_disk(error) is None and of_system(error) is None
        assert evidence(error).startswith(f"{type(error).__name__}: ")
