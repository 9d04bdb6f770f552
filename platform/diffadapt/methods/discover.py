"""Methods are found, not listed: every file of methods/uda and methods/ssl that holds one method class is a
method of that name.

DIFFADAPT_METHODS may name further folders (separated by the system's path separator) with sub-folders ``uda``
and ``ssl``, so that a method of one's own needs no change of the package.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.discover import Seam, check_name

VARIABLE = "DIFFADAPT_METHODS"


def methods(kind: str, base: type) -> Seam:
    """The methods of ``kind`` ('uda', 'ssl'). Their files import no torch at their top."""
    return Seam("method", f"diffadapt.methods.{kind}", VARIABLE, base, folder=kind)


def chosen(config: Any, what: str) -> Any:
    """The settings of the method that ``config.method`` names. Raises RecipeError with the nearest name."""
    check_name(f"{what} method", config.method, method_names(config))
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
