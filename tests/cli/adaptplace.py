"""A folder with everything that a small run of Adapt Anything reads, shared by a module's tests of bad input,
and the commands on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.adapting import prepare
from tests.cli.badinput import Result, diffadapt

SHORT = (
    "--uda.method",
    "source_only",
    "--ssl.method",
    "none",
    "--uda.steps-per-epoch",
    "1",
    "--ssl.steps-per-epoch",
    "1",
    "--figures",
    "False",
    "--generator.images-per-class",
    "2",
    "--prompts.prompts-per-class",
    "2",
)
"""A run of about a second: 20 images, one training step."""


class AdaptPlace:
    """``folder`` has classes.txt, target/ (40 digits in ten class folders), generator/ and flat/ (6 images);
    ``root`` is shared."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "root"
        prepare(folder)
        self.flat = noise(folder / "flat", 6)

    def words(self, command: str, *words: object, recipe: str = "smalladapt", **given: object) -> Result:
        """A command on the recipe; ``given`` replaces classes, target, generator or root."""
        places = {
            "classes": self.folder / "classes.txt",
            "target": self.folder / "target",
            "generator": self.folder / "generator",
            "root": self.root,
            **given,
        }
        options = [w for name, value in places.items() if value is not None for w in (f"--{name}", value)]
        return diffadapt(command, recipe, *options, "--execution.runner", "local", *words)

    def plan(self, *words: object, **given: object) -> Result:
        return self.words("plan", *words, **given)

    def run(self, *words: object, **given: object) -> Result:
        return self.words("run", *words, **given)

    def short(self, *words: object, **given: object) -> Result:
        """A run of about a second."""
        return self.words("run", *SHORT, *words, **{"target": self.flat, **given})

    def text(self, name: str, *lines: str) -> Path:
        """A text file of these lines."""
        (self.folder / name).write_text("\n".join(lines), encoding="utf-8")
        return self.folder / name

    def last(self) -> Path:
        """The folder of the newest run."""
        return max((self.root / "runs").glob("*-*"), key=lambda p: p.stat().st_mtime_ns)

    def warnings(self) -> list[str]:
        """What the newest run warned of."""
        file = self.last() / "warnings.json"
        return [str(sentence) for sentence in json.loads(file.read_text())] if file.exists() else []

    def failed(self) -> list[dict]:
        """The quarantined items of the newest run."""
        file = self.last() / "quarantine.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def noise(folder: Path, count: int) -> Path:
    """Random 16-pixel grey PNG images without labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder
