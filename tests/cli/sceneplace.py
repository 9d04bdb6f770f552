"""A user's own folder of street scenes, a generator, and the commands of ZoDi on them, for tests of bad
input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from diffadapt.data.scenes.classes import builtin
from diffadapt.worlds.streets.scenes import StreetScene
from tests.cli.badinput import Result, diffadapt
from tests.diffusionkit import tiny_scene_pipeline

SHORT = (
    "--controlnet",
    "",
    "--transfer.size",
    "32",
    "--transfer.multiple",
    "16",
    "--transfer.steps",
    "3",
    "--transfer.guidance",
    "1",
    "--transfer.palette",
    "own",
    "--backbone",
    "timm:cifar_resnet8",
    "--segmenter.weights",
    "none",
    "--segmenter.width",
    "8",
    "--segmenter.size",
    "32",
    "32",
    "--training.crop",
    "32",
    "32",
    "--epochs",
    "1",
    "--training.batch-size",
    "2",
    "--methods",
    "zodi",
    "--estimate",
    "0",
    "--figures",
    "False",
)
"""A run of about a second: images of 32x32, one method, one epoch."""


class ScenePlace:
    """``good``: six scenes with label maps and a class table; ``night``: two of them by night; ``generator``;
    ``root`` is shared."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "root"
        self.generator = Path(tiny_scene_pipeline(folder / "generator"))
        self.good, self.night = self.scenes("good", 6), self.scenes("night", 2, "night", "test")

    def scenes(self, name: str, count: int = 4, condition: str = "day", split: str = "train") -> Path:
        """A folder of images/, labels/ and classes.csv."""
        place = self.folder / name
        for sub in ("images", "labels"):
            (place / sub).mkdir(parents=True)
        for i in range(count):
            scene = StreetScene(condition, split, i)
            Image.fromarray(scene.image).save(place / "images" / f"{i}.png")
            Image.fromarray(scene.annotation).save(place / "labels" / f"{i}.png")
        table = builtin("streets")
        lines = [
            f"{v},{n},{r},{g},{b}"
            for v, (n, (r, g, b)) in enumerate(zip(table.names, table.colours, strict=True))
        ]
        (place / "classes.csv").write_text(
            "\n".join(["value,name,red,green,blue", *lines, "255,ignore,0,0,0"])
        )
        return place

    def copy(self, to: Path, what: Path | None = None) -> Path:
        """A copy of the good scenes to damage."""
        return Path(shutil.copytree(what or self.good, to))

    def words(self, command: str, *words: object, recipe: str = "zodi", **given: object) -> Result:
        """A command on the recipe; ``given`` replaces source, target, source_test, generator, domain or root;
        None leaves one out."""
        from diffadapt.stages import scenes

        scenes.cached_scenes.cache_clear()
        scenes.cached_classes.cache_clear()
        places = {
            "source": self.good,
            "target": self.night,
            "generator": self.generator,
            "domain": "night",
            "root": self.root,
            **given,
        }
        options = [
            w
            for name, value in places.items()
            if value is not None
            for w in (f"--{name.replace('_', '-')}", value)
        ]
        short = SHORT if recipe == "zodi" else ()
        return diffadapt(
            command,
            recipe,
            *options,
            *short,
            "--execution.runner",
            "local",
            "--execution.threads",
            "1",
            *words,
        )

    def plan(self, *words: object, **given: object) -> Result:
        return self.words("plan", *words, **given)

    def run(self, *words: object, **given: object) -> Result:
        return self.words("run", *words, **given)

    def last(self) -> Path:
        """The folder of the newest run."""
        return max((self.root / "runs").glob("*-*"), key=lambda p: p.stat().st_mtime_ns)

    def warnings(self) -> list[str]:
        """What the newest run warned of."""
        file = self.last() / "warnings.json"
        return [w["sentence"] for w in json.loads(file.read_text())] if file.exists() else []

    def failed(self) -> dict[str, str]:
        """The quarantined items of the newest run: key -> reason."""
        file = self.last() / "quarantine.jsonl"
        return (
            {line["key"]: line["reason"] for line in map(json.loads, file.read_text().splitlines())}
            if file.exists()
            else {}
        )

    def stored(self, kind: str) -> dict[str, bytes]:
        """Finished shards and fits of a kind: files with their content."""
        return {
            p.relative_to(self.root).as_posix(): p.read_bytes()
            for p in (self.root / "store" / kind).rglob("*")
            if p.is_file() and ".tmp-" not in p.name and p.name != "family.json"
        }
