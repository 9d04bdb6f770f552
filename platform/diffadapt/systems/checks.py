"""What recipes of every system check about lists of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffadapt.core.errors import RecipeError, suggest


def check_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """RecipeError, with the nearest name, for one that is not known."""
    for name in given:
        if name not in known:
            raise RecipeError(f"{what} has no {name!r}.{suggest(name, known)} Known are: {', '.join(known)}.")


def check_once(what: str, given: Sequence[str]) -> None:
    """RecipeError for a list that names something twice."""
    for value in given:
        if given.count(value) > 1:
            raise RecipeError(f"{what} has {value!r} twice: name each once.")
