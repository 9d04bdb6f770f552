"""Find and load search spaces: functions called ``space`` (or more of other names) under tune_spaces/ that
return a Space."""

from __future__ import annotations

from pathlib import Path

from diffadapt.core import functions
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.functions import Entry
from diffadapt.sweeps.space import Space


def folders() -> list[Path]:
    """Where spaces are looked for, best first; DIFFADAPT_TUNE_SPACES names further folders."""
    return functions.folders("DIFFADAPT_TUNE_SPACES", "tune_spaces")


def spaces() -> dict[str, Entry]:
    """Every space by name."""
    return functions.find(folders(), "space")


def load_space(name: str) -> tuple[str, Space]:
    """(name, space) of a space by its name, as ``tune_spaces/<name>``, or of a file of one's own; RecipeError
    with the nearest name otherwise."""
    short = name.rstrip("/").removeprefix("./").removesuffix(".py").removeprefix("tune_spaces/")
    entries = spaces()
    if short not in entries and name.endswith(".py"):
        if not Path(name).is_file():
            raise RecipeError(
                f"There is no file {name} with a search space: mend the path, or name a space that `diffadapt"
                " ls spaces` lists."
            )
        entries = functions.of_file(Path(name), short := Path(name).stem, "space")
    if short not in entries:
        raise RecipeError(
            f"There is no search space {name!r}.{suggest(short, entries)} `diffadapt ls spaces` lists them."
        )
    space = functions.build(entries[short], "space")
    if not isinstance(space, Space):
        raise RecipeError(
            f"The space {name!r} returns a {type(space).__name__}: it must return a Space(...)."
        )
    return short, space
