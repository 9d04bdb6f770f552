"""A finished small run that the command-line tests share, and the command line in and out of this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.adaptplace import AdaptPlace

ROOT = Path(__file__).resolve().parents[2]

RECIPE = '''"""A recipe for tests."""

from dataclasses import replace

from tests.tiny import tiny_sda


def recipe():
    """Source and SDA on ten digits under two corruptions, in seconds."""
    full = tiny_sda()
    return replace(
        full, methods=("source", "sda"), controls=(), figures=False,
        target=replace(full.target, data=replace(full.target.data, limit_per_class=1, block=5)),
        synth=replace(full.synth, images_per_class=4, images_per_shard=2, steps=2),
        align=replace(full.align, respacing=5, start=1),
    )
'''


@dataclass(frozen=True)
class Shell:
    """``small``: a root with one finished run of the recipe ``small``; ``name``: that run."""

    pipelines: Path
    small: Path
    name: str
    table: str

    def python(self, *arguments: str, root: Path | None = None) -> tuple[subprocess.CompletedProcess, float]:
        """A Python of its own with the package on its path; the result and the seconds it took."""
        env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}",
            "DIFFADAPT_PIPELINES": str(self.pipelines),
            "DIFFADAPT_ROOT": str(root or self.small),
        }
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=self.pipelines
        )
        return done, time.perf_counter() - start


@pytest.fixture(scope="session")
def shell(tmp_path_factory) -> Shell:
    import contextlib
    import io

    import torch

    from diffadapt.cli import main
    from diffadapt.core.runs import Root

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "small.py").write_text(RECIPE)
    root = tmp_path_factory.mktemp("small root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "160")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["run", "small", "--root", str(root)]) == 0
    return Shell(folder, root, Root(str(root)).run("last").name, out.getvalue())


@pytest.fixture
def cli(shell, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``cli("run", "small")`` -> (status, stdout, stderr), in this process, on the shared root unless --root
    is given."""
    from diffadapt.cli import main

    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(shell.pipelines))
    monkeypatch.setenv("DIFFADAPT_ROOT", str(shell.small))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def adapt(tmp_path_factory) -> Iterator[AdaptPlace]:
    """What a small run of Adapt Anything reads, and its root, for a module's tests."""
    folder = tmp_path_factory.mktemp("adapt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(folder / "pipelines"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "160")
        yield AdaptPlace(folder)
