"""Pieces that are found, not listed: every file of a folder that holds one class (or value) of a base is a
piece of that name.

A :class:`Seam` looks into a package of diffadapt and into the user's folders, which an environment variable
names (several are separated by the system's path separator), so that a piece of one's own is one file and no
change of the package. A user's file is imported as a module of the package, so that another process finds it
under the same name; the package's ``__init__`` calls :func:`extend` for that.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable, Mapping, MutableSequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diffadapt.core.config import added
from diffadapt.core.errors import DiffadaptError, RecipeError, suggest

VARIABLES = tuple(
    f"DIFFADAPT_{kind}"
    for kind in (
        "METHODS",
        "ALIGNERS",
        "GENERATORS",
        "PROMPTS",
        "SECTIONS",
        "LAYOUTS",
        "BENCHMARKS",
        "METRICS",
        "TRACKERS",
        "ARCHIVES",
    )
)
"""The environment variables that name folders with pieces of one's own; what they hold travels with a job."""


def user_folders(variable: str) -> list[Path]:
    """The folders that an environment variable names, as far as they exist."""
    named = [Path(place) for place in os.environ.get(variable, "").split(os.pathsep) if place]
    return [place for place in named if place.is_dir()]


def extend(paths: MutableSequence[str], variable: str, folder: str = "") -> None:
    """Add the folders that the environment variable names (of each its sub-folder ``folder``) to a package's
    search path."""
    for place in user_folders(variable):
        full = str(place / folder)
        if Path(full).is_dir() and full not in paths:
            paths.append(full)


@dataclass(frozen=True)
class Seam:
    """One kind of piece that is found by file; ``names`` imports none of the files, ``load`` one of them.

    A file is passed over when its name begins with ``_`` or is among ``skip``. A built-in file comes before
    a user's of the same name.
    """

    what: str
    """What a piece is called in messages ('UDA method'); the last word names its file ('method')."""
    package: str
    """The package that holds the built-in files."""
    variable: str
    """The environment variable with the user's folders."""
    base: type
    """What the class in a file extends or, with ``values``, what the value in it is."""
    folder: str = ""
    """The sub-folder of each user's folder that is meant; empty: the folder itself."""
    values: bool = False
    """Files hold a value (an instance of the base at their top) instead of a class."""
    hyphens: bool = False
    """An underscore in a file's name is a hyphen in the piece's: dda_batch.py is 'dda-batch'."""
    skip: frozenset[str] = frozenset({"base", "config", "layers"})

    def names(self) -> list[str]:
        """The names that are there, sorted."""
        paths = importlib.import_module(self.package).__path__
        extend(paths, self.variable, self.folder)
        files = {m.name for m in pkgutil.iter_modules(paths)} - self.skip
        return sorted(f.replace("_", "-") if self.hyphens else f for f in files if not f.startswith("_"))

    def choices(self, *first: str) -> tuple[str, ...]:
        """The names for an option: ``first``, then all others."""
        return (*first, *(name for name in self.names() if name not in first))

    def load(self, name: str) -> Any:
        """The class or value of that name. Raises RecipeError, with the nearest name, where there is none,
        and for a file that cannot be imported or does not hold exactly one piece of its own."""
        check_name(self.what, name, self.names())
        file = name.replace("-", "_") if self.hyphens else name
        said = f"The {self.what.split()[-1]} file {file}.py"
        module = import_file(f"{self.package}.{file}", said)
        pieces = [piece for piece in vars(module).values() if self._is_piece(piece, module.__name__)]
        frozen = is_dataclass(self.base)
        if len(pieces) != 1 or (frozen and not is_dataclass(pieces[0])):
            form = "frozen dataclass" if frozen else "class"
            form = "value that is a" if self.values else f"{form} that extends"
            raise RecipeError(
                f"{said} must hold exactly one {form} {self.base.__name__}; it holds {len(pieces)}."
            )
        return pieces[0]

    def all(self) -> dict[str, Any]:
        """Name -> class or value, sorted by name. Raises RecipeError as :meth:`load` does."""
        return {name: self.load(name) for name in self.names()}

    def _is_piece(self, piece: Any, module: str) -> bool:
        if self.values:
            return isinstance(piece, self.base)
        return isinstance(piece, type) and issubclass(piece, self.base) and piece.__module__ == module


def import_file(module: str, said: str) -> ModuleType:
    """The module of a file that was found; RecipeError, which calls it ``said``, where it has a fault."""
    try:
        return importlib.import_module(module)
    except DiffadaptError:
        raise
    except Exception as error:
        raise RecipeError(f"{said} cannot be imported ({type(error).__name__}: {error}).") from error


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise RecipeError, with the nearest name, unless ``name`` is among the ``known``."""
    known = list(known)
    if name not in known:
        raise RecipeError(
            f"There is no {what} {name!r}.{suggest(name, known)} Known are: {', '.join(known)}."
        )


def extended(name: str, base: type, pieces: Mapping[str, type], module: str, later: bool = False) -> Any:
    """The dataclass ``base`` with one field more for each piece that has settings, named as the piece;
    ``later``: fields as of core/config.added, so that a piece more changes no recipe's digest.

    Raises RecipeError for a piece that is called as a field of ``base``.
    """
    own = {f.name: f.default for f in fields(base)}
    new = [(piece.replace("-", "_"), cls, cls()) for piece, cls in pieces.items() if fields(cls)]
    new = [(taken, cls, default) for taken, cls, default in new if own.get(taken) != default]
    for taken in own.keys() & {f for f, _, _ in new}:
        raise RecipeError(f"A file cannot be called {taken}.py, because {name} has a field of that name.")
    if later:
        new = [(taken, cls, added(default)) for taken, cls, default in new]
    result = make_dataclass(name, new, bases=(base,), frozen=True)
    result.__module__, result.__doc__ = module, base.__doc__
    return result
