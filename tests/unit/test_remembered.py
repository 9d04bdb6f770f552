"""What is remembered on this machine (hashes of data and weights, answers of language models) is believed
only where no other user can have written it."""

from __future__ import annotations

import json
import os

import pytest
from fsspec.implementations.local import LocalFileSystem

from diffadapt.core.files import file_sha256, read_own
from diffadapt.data import hashes
from diffadapt.data.hashes import hash_files
from diffadapt.models import weights
from diffadapt.prompts.sources.llm import AnswerCache

FOREIGN = pytest.mark.parametrize("how", ["open to all", "another user's", "a link"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plant(file, how: str, monkeypatch) -> None:
    if how == "open to all":
        file.chmod(0o666)
    elif how == "a link":
        file.rename(file.with_suffix(".planted"))
        file.symlink_to(file.with_suffix(".planted"))
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@FOREIGN
def test_planted_hashes_of_data(cache, tmp_path, monkeypatch, how):
    file = tmp_path / "a.png"
    file.write_bytes(b"content")
    monkeypatch.setattr(hashes, "FRESH_NS", 0)
    assert hash_files(LocalFileSystem(), "r", [str(file)]) == {str(file): file_sha256(file)}
    memory = next((cache / "hashes").glob("*.json"))
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps({path: [*entry[:2], "0" * 64] for path, entry in known.items()}))
    assert hash_files(LocalFileSystem(), "r", [str(file)]) == {str(file): "0" * 64}  # the memory is used
    plant(memory, how, monkeypatch)
    assert hash_files(LocalFileSystem(), "r", [str(file)]) == {str(file): file_sha256(file)}


@FOREIGN
def test_planted_hashes_of_weights(cache, tmp_path, monkeypatch, how):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(1 << 20))
    whole = weights._file_digest(file)
    memory = cache / "weights.json"
    memory.write_text(json.dumps(dict.fromkeys(json.loads(memory.read_text()), "0" * 64)))
    assert weights._file_digest(file) == "0" * 64
    plant(memory, how, monkeypatch)
    assert weights._file_digest(file) == whole


def test_a_memory_of_weights_that_is_no_object(cache, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(1 << 20))
    cache.mkdir()
    (cache / "weights.json").write_text("[1]")
    assert weights._file_digest(file) == file_sha256(file)


@FOREIGN
def test_planted_answers(cache, monkeypatch, how):
    answers = AnswerCache()
    answers.put("a", "a photo of a dog")
    assert answers.get("a") == "a photo of a dog"
    plant(cache / "prompts" / "a.json", how, monkeypatch)
    assert answers.get("a") is None


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        read_own(tmp_path / "pipe")
