"""A recipe of seconds, image folders and checkpoints for the tests of bad input, and the command line in this
process."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffadapt.cli import main
from diffadapt.models.weights import ASSETS

RECIPE = '''"""A recipe for tests."""

from dataclasses import replace

from tests.tiny import tiny_sda


def recipe():
    """Source and DDA on a few digits."""
    full = tiny_sda()
    return replace(
        full,
        classifier=replace(full.classifier, name={classifier!r}, arch=None),
        source=replace(full.source, path=""),
        target=replace(full.target, corruptions=("contrast",)),
        methods=("source", "dda"),
        controls=(),
        figures=False,
    )

'''

WHOLE = '''"""A recipe for tests."""

from tests.tiny import tiny_sda


def recipe():
    """Everything, on a few digits."""
    return tiny_sda()
'''


@dataclass
class Result:
    """What a command left behind; ``error`` is what it wrote on stderr, ``output`` on stdout."""

    status: int
    output: str
    error: str

    @property
    def text(self) -> str:
        return self.output + self.error

    def sentence(self, *parts: str) -> str:
        """The message of a command that failed by the user's fault, which must contain ``parts`` and no
        traceback."""
        assert self.status == 2, f"exit status {self.status}\n{self.text}"
        assert "Traceback" not in self.text, self.text
        message = self.error.strip().splitlines()[-1]
        for part in parts:
            assert part.lower() in message.lower(), f"{part!r} is not in: {message}"
        assert len(message) < 700, message
        return message


def diffadapt(*words: object) -> Result:
    """One command in this process, as a fresh process would see it."""
    from diffadapt.stages import images

    images.cached_source.cache_clear()
    images.cached_benchmark.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(w) for w in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Result(status, _plain(out.getvalue()), _plain(err.getvalue()))


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


_FINISHED: dict[bool, dict[str, bytes]] = {}


class Place:
    """A temporary root, a folder of recipes, and a classifier of digits that guesses."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DIFFADAPT_PIPELINES", str(folder / "recipes"))
        monkeypatch.chdir(
            folder
        )  # the recipe names its classifier by a relative path, so its digests are the same everywhere
        self.folder = folder
        self.root = folder / "root"
        self.classifier = classifier_file(folder / "classifier.safetensors")
        (folder / "recipes").mkdir()
        (folder / "recipes" / "small.py").write_text(RECIPE.format(classifier=self.classifier.name))
        (folder / "recipes" / "whole.py").write_text(WHOLE)

    def finish(self, whole: bool = False) -> None:
        """A finished run of the small recipe, or of the one that trains its classifier: made once a process,
        then copied."""
        if whole not in _FINISHED:
            result = self.run_whole() if whole else self.run()
            assert result.status == 0, result.text
            _FINISHED[whole] = self.everything()
        for name, data in _FINISHED[whole].items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)

    def run(self, *words: object, recipe: str = "small", root: object = None) -> Result:
        return diffadapt("run", recipe, "--root", root or self.root, *words)

    def run_whole(self, *words: object, methods: str = "source") -> Result:
        """The recipe that trains its classifier, cut down to some methods."""
        return self.run(
            "--methods", *methods.split(), "--controls", "--figures", "False", *words, recipe="whole"
        )

    def folder_words(self, images: object) -> tuple[object, ...]:
        """Options that adapt to a folder of 16-pixel grey images as it is."""
        return (
            "--target.kind",
            "folder",
            "--target.data.path",
            images,
            "--target.data.split",
            "all",
            "--target.data.limit-per-class",
            "None",
        )

    def stored(self, kind: str) -> list[Path]:
        return sorted((self.root / "store" / kind).rglob("*.parquet"))

    def run_folder(self) -> Path:
        (found,) = (self.root / "runs").glob("*-*")
        return found

    def everything(self) -> dict[str, bytes]:
        """Every file of the root with its content, temporary ones included."""
        return {
            str(p.relative_to(self.root)): p.read_bytes() for p in sorted(self.root.rglob("*")) if p.is_file()
        }


def classifier_file(path: Path, classes: int = 10) -> Path:
    """An untrained cifar_resnet8 for grey images as a bare checkpoint."""
    from diffadapt.models.classifier import create_model

    torch.manual_seed(0)
    save_file(create_model("cifar_resnet8", classes, 1).state_dict(), path)
    return path


def digit_folder(folder: Path, classes: int = 10, each: int = 2) -> Path:
    """A class folder of random 16-pixel grey PNG images."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / str(c)).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / str(c) / f"{i}.png")
    return folder


def network_folder(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of shipped weights with every number changed."""
    shutil.copytree(ASSETS / name, folder)
    (file,) = folder.rglob("*.safetensors")
    state = {k: change(v) for k, v in load_file(file).items()}
    file.unlink()
    save_file(state, file, metadata={"format": "pt"})
    return folder


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of ``size`` mounted at ``folder``; gives a function that remounts it with other options.
    Skips without the right."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system needs more rights")
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
            )
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)
