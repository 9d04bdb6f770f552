"""A read that fails sets an image apart only where the image is at fault: not while its place is."""

from __future__ import annotations

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.items import Item, Source
from diffadapt.data.readers import FileReader, ParquetReader


class EndpointConnectionError(Exception):
    """As botocore has it: no OSError."""


EndpointConnectionError.__module__ = "botocore.exceptions"


class Failing(MemoryFileSystem):
    """An object store whose reads end with ``error``."""

    protocol = "s3"
    cachable = False

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def cat_file(self, path, *args, **kwargs):
        raise self.error

    open = cat_file


def expired() -> PermissionError:
    """As s3fs turns botocore's error into one of its own."""
    error = PermissionError(errno.EACCES, "The provided token has expired.")
    error.__cause__ = type("ClientError", (Exception,), {"response": {"Error": {"Code": "ExpiredToken"}}})()
    return error


PLACE = {
    "token": (expired(), "have expired"),
    "busy": (OSError(errno.EBUSY, "Please reduce your request rate."), "run the same command"),
    "server": (OSError(errno.EIO, "We encountered an internal error."), "run the same command"),
    "reset": (ConnectionResetError("Connection reset by peer"), "run the same command"),
    "slow": (FSTimeoutError(), "run the same command"),
    "offline": (EndpointConnectionError("Could not connect"), "run the same command"),
    "handles": (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "run the same command"),
}
FILE = {
    "gone": FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
    "forbidden": PermissionError(errno.EACCES, "Access Denied"),
    "folder": IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)),
}


def readers(error: Exception) -> list[FileReader | ParquetReader]:
    fs = Failing(error)
    return [
        FileReader(fs, "bucket/photos", {"a/1.png": "bucket/photos/a/1.png"}),
        ParquetReader(fs, "bucket", {"t.parquet": "bucket/t.parquet"}, {"a/1.png": ("t.parquet", 0, 0)}),
    ]


@pytest.mark.parametrize("name", PLACE)
def test_no_image_is_lost_while_its_place_fails(name: str) -> None:
    error, said = PLACE[name]
    for reader in readers(error):
        with pytest.raises(DataError, match=said) as caught:
            reader.read("a/1.png")
        assert "s3://bucket" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILE)
def test_an_image_that_is_itself_at_fault_is_set_apart(name: str) -> None:
    for reader in readers(FILE[name]):
        with pytest.raises(ItemError, match=r"a/1\.png cannot be read"):
            reader.read("a/1.png")


def test_a_broken_row_group_is_the_files_fault(tmp_path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [os.urandom(5000)], "key": ["a/1.png"]}), path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    from fsspec.implementations.local import LocalFileSystem

    reader = ParquetReader(LocalFileSystem(), str(tmp_path), {"t": str(path)}, {"a/1.png": ("t", 0, 0)})
    with pytest.raises(ItemError, match=r"a/1\.png cannot be read from t"):
        reader.read("a/1.png")


@pytest.mark.parametrize("name", ["token", "server", "offline"])
def test_a_fingerprint_says_why_it_cannot_be_taken(name: str, monkeypatch) -> None:
    error, _ = PLACE[name]
    reader = readers(error)[0]
    source = Source("photos", ("a",), (Item("a/1.png", 0),), reader)

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Failing, "size", fails)
    with pytest.raises(DataError, match="have expired|check the disk, the connection and the rights"):
        _ = source.fingerprint
