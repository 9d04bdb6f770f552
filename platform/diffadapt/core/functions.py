"""Functions in folders of Python files, found by their place: recipes under pipelines/, search spaces under
tune_spaces/.

``folder/a/b.py`` with a function ``c`` gives ``a/b/c``; a function called after what is looked for
(``recipe``, ``space``) gives the file's own name, and in a file of that name the folder's. Files and
functions whose names begin with ``_`` are passed over.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diffadapt.core.errors import DiffadaptError, RecipeError

MODULE = "diffadapt_own_"
"""How the names of the modules of such files begin."""


@dataclass(frozen=True)
class Entry:
    """One function: its name, the first paragraph of its docstring (or the file's), itself, and its file."""

    name: str
    summary: str
    build: Callable[[], Any]
    file: Path


def folders(variable: str, name: str) -> list[Path]:
    """Folders to look in, best first: those that the environment's ``variable`` names, the checkout's
    ``name``, the installed one."""
    result = [Path(p) for p in os.environ.get(variable, "").split(os.pathsep) if p]
    return [p for p in [*result, *shipped(name)] if p.is_dir()]


def shipped(name: str) -> list[Path]:
    """Where the folder ``name`` of the repository is, best first: in the checkout, if this is one, and as the
    wheel brings it. Neither need exist."""
    package = Path(__file__).resolve().parent.parent
    checkout = [package.parent.parent / name] if package.parent.name == "platform" else []
    return [*checkout, package / f"_{name}"]


def find(roots: Iterable[Path], what: str) -> dict[str, Entry]:
    """Every function of every file under ``roots`` by name; the first root that has a name counts. ``what``:
    recipe or space."""
    entries: dict[str, Entry] = {}
    for root in roots:
        for file in sorted(root.rglob("*.py")):
            if not file.name.startswith("_"):
                for name, entry in of_file(
                    file, file.relative_to(root).with_suffix("").as_posix(), what
                ).items():
                    entries.setdefault(name, entry)
    return dict(sorted(entries.items()))


def of_file(file: Path, stem: str, what: str) -> dict[str, Entry]:
    """The functions of one file, which is called ``stem``; RecipeError when it cannot be loaded."""
    stem = stem.removesuffix(f"/{what}")
    module, result = _import(file, stem, what), {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            full = stem if name == what else f"{stem}/{name}"
            result[full] = Entry(
                full,
                _summary(inspect.getdoc(function) or inspect.getdoc(module) or ""),
                function,
                file,
            )
    return result


def _summary(doc: str) -> str:
    return " ".join(doc.split("\n\n")[0].split("\n"))


def build(entry: Entry, what: str) -> Any:
    """What the function returns; RecipeError, naming the file, for an error in it."""
    try:
        return entry.build()
    except DiffadaptError:
        raise
    except Exception as error:
        raise RecipeError(
            f"The {what} {entry.name!r} in {entry.file} cannot be built ({type(error).__name__}: {error}):"
            " mend that file."
        ) from error


def _import(file: Path, stem: str, what: str) -> ModuleType:
    unique = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"{MODULE}{what}_{unique}_{stem.replace('/', '_')}"
    return _import_as(name, file, what)


def loaded() -> dict[str, str]:
    """The modules of such files that this process has: name -> file."""
    return {
        name: str(module.__file__) for name, module in list(sys.modules.items()) if name.startswith(MODULE)
    }


def load_again(modules: Mapping[str, str]) -> None:
    """In another process of the same machine: what :func:`loaded` named, under the same names, so that their
    classes are found there."""
    for name, file in modules.items():
        if name not in sys.modules:
            _import_as(name, Path(file), name.removeprefix(MODULE).partition("_")[0])


def _import_as(name: str, file: Path, what: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes of a file find their annotations through it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise RecipeError(
            f"The {what} file {file.name} cannot be loaded ({type(error).__name__}: {error}): mend it or move"
            f" it out of {file.parent.name}/."
        ) from error
    return module


def lazily(package: str, files: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that takes names out of its ``files`` (file -> names) when they are asked
    for, so that one file of the package can be imported without the others."""
    where = {name: file for file, names in files.items() for name in names}

    def find_name(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return find_name
