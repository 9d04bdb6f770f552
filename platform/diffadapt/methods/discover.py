"""Methods are found, not listed: every file of a methods folder that holds one method class is a method of
that name.

DIFFADAPT_METHODS may name further folders (separated by the system's path separator) with sub-folders ``uda``
and ``ssl``, so that a method of one's own needs no change of the package.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError, suggest

NOT_METHODS = {"base", "config", "layers"}


def extend(paths: list[str], kind: str) -> None:
    """Add the user's folders of ``kind`` ('uda', 'ssl') to a package's search path."""
    for folder in os.environ.get("DIFFADAPT_METHODS", "").split(os.pathsep):
        place = Path(folder) / kind
        if folder and place.is_dir() and str(place) not in paths:
            paths.append(str(place))


def discover(package: ModuleType, base: type) -> dict[str, type]:
    """File name -> the subclass of ``base`` in it, sorted. The files import no torch at their top.

    Raises RecipeError for a file without exactly one method class of its own, or whose class is not a frozen
    dataclass.
    """
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name in NOT_METHODS or info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        classes = [
            c
            for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__
        ]
        if len(classes) != 1 or not is_dataclass(classes[0]):
            raise RecipeError(
                f"The method file {info.name}.py must hold exactly one frozen dataclass that extends"
                f" {base.__name__}; it holds {len(classes)}."
            )
        found[info.name] = classes[0]
    return dict(sorted(found.items()))


def config_class(name: str, training: type, methods: dict[str, type], module: str) -> type:
    """``training`` with one field a method, named as the method, that holds its settings."""
    added: list[tuple[str, Any, Any]] = [(method, cls, cls()) for method, cls in methods.items()]
    made = make_dataclass(name, added, bases=(training,), frozen=True)
    made.__module__, made.__doc__ = module, training.__doc__
    return made


def chosen(config: Any, what: str) -> Any:
    """The settings of the method that ``config.method`` names. Raises RecipeError with the nearest name."""
    known = method_names(config)
    if config.method not in known:
        raise RecipeError(
            f"There is no {what} method {config.method!r}.{suggest(config.method, known)} Known are:"
            f" {', '.join(known)}."
        )
    return getattr(config, config.method)


def method_names(config: Any) -> list[str]:
    """The methods that a configuration has settings of."""
    return [f.name for f in fields(config) if is_dataclass(getattr(config, f.name))]


def identity(config: Any, what: str) -> dict[str, Any]:
    """Identity fields: those of training and of the chosen method alone, so that other methods' settings fork
    nothing."""
    mine = chosen(config, what)
    values = to_dict(config, identity_only=True)
    for name in method_names(config):
        values.pop(name)
    return {**values, "version": mine.version, "settings": to_dict(mine, identity_only=True)}
