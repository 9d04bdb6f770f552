"""What travels with a submitted job: the package, recipes, search spaces and methods of one's own; nothing
else.

The folders are copied to a temporary one under the names that the job knows them by. Files that .gitignore or
.rayignore in these folders name stay at home, as do environments, caches, tests and stores.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import diffadapt
from diffadapt.core import recipes
from diffadapt.core.discover import VARIABLES, user_folders
from diffadapt.core.errors import ResourceError
from diffadapt.core.files import scratch
from diffadapt.orchestrate import internals
from diffadapt.sweeps import spaces

LEFT_OUT = [
    "__pycache__",
    "*.py[cod]",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
    ".ipynb_checkpoints",
    ".git",
    ".venv",
    "venv",
    "tests",
    "diffadapt-data",
    ".DS_Store",
]
LARGEST_SHOWN = 3
MIB = 2**20


@dataclass(frozen=True)
class Bundle:
    """``package``: the folder of the package; ``working``: that of recipes and spaces, the job's working
    folder; ``env``: the variables by which the package finds them there; ``size``: bytes of all files."""

    package: Path
    working: Path
    env: Mapping[str, str]
    size: int


@contextlib.contextmanager
def bundle(files: Mapping[str, Path], limit: int | None = None) -> Iterator[Bundle]:
    """Copy what travels, and ``files`` (name in the working folder -> file), into a folder that ends with the
    context.

    Raises ResourceError when package or working folder hold ``limit`` bytes (Ray's own limit) or more, which
    Ray would refuse after the upload.
    """
    most: int = limit or (internals.piece("upload limit") or [500 * MIB])[0]
    package = Path(diffadapt.__file__).resolve().parent
    folders, env = _folders(package)
    inside = {f: p for folder, name in folders.items() for f, p in _listed(folder, name).items()}
    inside.update({file.resolve(): Path(name) for name, file in files.items()})
    code = _listed(package, package.name)
    size = sum(
        _demand_room(part, what, most)
        for part, what in ((code, "The package"), (inside, "What travels beside the package"))
    )
    with scratch("job") as place:
        working = Path(place) / "job"
        working.mkdir()
        _copy(code, Path(place))
        _copy(inside, working)
        yield Bundle(Path(place) / package.name, working, env, size)


def _folders(package: Path) -> tuple[dict[Path, str], dict[str, str]]:
    """(folder -> its name in the job, variables), best first as the package itself looks; what lies in the
    package comes with it."""
    names: dict[Path, str] = {}
    env: dict[str, str] = {}
    places = {"DIFFADAPT_PIPELINES": recipes.folders(), "DIFFADAPT_TUNE_SPACES": spaces.folders()}
    places |= {variable: user_folders(variable) for variable in VARIABLES}
    for variable, existing in places.items():
        mine = list(dict.fromkeys(p.resolve() for p in existing if package not in p.resolve().parents))
        kind = variable.removeprefix("DIFFADAPT_").lower()
        for place, folder in enumerate(mine):
            names.setdefault(folder, kind if place == len(mine) - 1 else f"{kind}-{place}")
        if mine:
            env[variable] = os.pathsep.join(names[p] for p in mine)
    return names, env


def _listed(folder: Path, name: str) -> dict[Path, Path]:
    """File -> its relative place under ``name``, without what is ignored."""
    result: dict[Path, Path] = {}

    def add(path: Path) -> None:
        if path.is_file():
            result[path] = Path(name) / path.relative_to(folder)

    if (found := internals.piece("ignored files")) is None:
        _walk(folder, add)
        return result
    travel, excludes, usual = found
    travel(folder, [excludes(folder, [*usual(), *LEFT_OUT])], add, include_gitignore=True)
    return result


def _walk(folder: Path, add: Callable[[Path], None]) -> None:
    """``add`` every file below ``folder`` but what is left out by name."""
    for path in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in LEFT_OUT):
            continue
        if path.is_dir():
            _walk(path, add)
        else:
            add(path)


def _demand_room(files: Mapping[Path, Path], what: str, limit: int) -> int:
    sizes = {f: f.stat().st_size for f in files}
    size = sum(sizes.values())
    if size >= limit:
        largest = sorted(sizes, key=lambda f: -sizes[f])[:LARGEST_SHOWN]
        shown = ", ".join(f"{f} ({sizes[f] / MIB:.1f} MiB)" for f in largest)
        raise ResourceError(
            f"{what} is {size / MIB:.1f} MiB, and Ray takes less than {limit / MIB:.0f} MiB: the largest"
            f" files are {shown}; name them in a file .rayignore in their folder (one pattern a line, as in"
            " .gitignore), or move data out of the folders of recipes."
        )
    return size


def _copy(files: Mapping[Path, Path], to: Path) -> None:
    for source, place in files.items():
        (to / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to / place)
