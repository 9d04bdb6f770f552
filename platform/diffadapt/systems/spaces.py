"""Find and load search spaces: functions called ``space`` (or more of other names) under tune_spaces/ that return a Space."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffadapt.core.errors import DiffadaptError, RecipeError, suggest
from diffadapt.sweeps.space import Space
from diffadapt.systems.recipes import import_file


@dataclass(frozen=True)
class SpaceEntry:
    """One space: its name, the first sentence of its docstring, and the function that returns it."""

    name: str
    summary: str
    build: Callable[[], Space]
    file: Path


def folders() -> list[Path]:
    """Where spaces are looked for, best first; DIFFADAPT_TUNE_SPACES names further folders."""
    package = Path(__file__).resolve().parent.parent
    found = [Path(p) for p in os.environ.get("DIFFADAPT_TUNE_SPACES", "").split(os.pathsep) if p]
    found += [package.parent.parent / "tune_spaces", package / "_tune_spaces"]
    return [p for p in found if p.is_dir()]


def spaces() -> dict[str, SpaceEntry]:
    """Every space by name."""
    entries: dict[str, SpaceEntry] = {}
    for root in folders():
        for file in sorted(root.rglob("*.py")):
            if not file.name.startswith("_"):
                for name, entry in _of_file(file, file.relative_to(root).with_suffix("").as_posix()).items():
                    entries.setdefault(name, entry)
    return dict(sorted(entries.items()))


def load_space(name: str) -> tuple[str, Space]:
    """(name, space) of a space by its name, as ``tune_spaces/<name>``, or of a file of one's own; RecipeError with the nearest name otherwise."""
    short = name.rstrip("/").removeprefix("./").removesuffix(".py").removeprefix("tune_spaces/")
    entries = spaces()
    if short not in entries and name.endswith(".py"):
        if not Path(name).is_file():
            raise RecipeError(f"There is no file {name} with a search space: mend the path, or name a space that `diffadapt ls spaces` lists.")
        entries = _of_file(Path(name), short := Path(name).stem)
    if short not in entries:
        raise RecipeError(f"There is no search space {name!r}.{suggest(short, entries)} `diffadapt ls spaces` lists them.")
    try:
        space = entries[short].build()
    except DiffadaptError:
        raise
    except Exception as error:
        raise RecipeError(f"The space {name!r} in {entries[short].file} cannot be built ({type(error).__name__}: {error}): mend that file.") from error
    if not isinstance(space, Space):
        raise RecipeError(f"The space {name!r} returns a {type(space).__name__}: it must return a Space(...).")
    return short, space


def _of_file(file: Path, stem: str) -> dict[str, SpaceEntry]:
    module = import_file(file, stem, "space")
    found = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            full = stem if name == "space" else f"{stem}/{name}"
            found[full] = SpaceEntry(full, (inspect.getdoc(function) or inspect.getdoc(module) or "").split("\n")[0], function, file)
    return found
