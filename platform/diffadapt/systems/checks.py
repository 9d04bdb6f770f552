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


def check_methods(given: Sequence[str], known: Iterable[str]) -> None:
    """RecipeError for methods that are not known, named twice, or none."""
    known = list(known)
    check_known("methods", given, known)
    check_once("methods", given)
    if not given:
        raise RecipeError(f"methods is empty: name at least one of {', '.join(known)}.")


def check_seeds(seeds: Sequence[int]) -> None:
    """RecipeError for no seed, or one that stands there twice."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise RecipeError(f"seeds is {list(seeds)}: give at least one, each once.")
