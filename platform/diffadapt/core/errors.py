"""Errors a user can cause. Each message is one sentence: what is wrong, why, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class DiffadaptError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class RecipeError(DiffadaptError):
    """An unknown recipe, an unknown field, or a value of the wrong type or range."""


class DataError(DiffadaptError):
    """Images, labels or folders that are missing, damaged or do not fit together."""


class WeightsError(DiffadaptError):
    """Weights that are missing, of another architecture, or unreadable."""


class UnfitError(WeightsError):
    """Weights that are there and cannot be used, whatever else comes to hand: planning refuses them too."""


class StoreError(DiffadaptError):
    """A store or run folder that cannot be read, written, or is of another format version."""


class LostError(StoreError):
    """A stored file that must be made again. A StoreError that is none of these says nothing about the file:
    its place cannot be reached or read, and what is there may be whole."""


class MissingError(LostError):
    """A stored file that is not there."""


class DamagedError(LostError):
    """A stored file that is not what was written."""


class ResourceError(DiffadaptError):
    """A request that the machine or cluster cannot meet (GPUs, memory, pool size)."""


class TrainingError(DiffadaptError):
    """Training or sampling that produced NaN or infinity, or a stage with too many failed items, which are
    then its ``failures``."""

    failures: tuple[Any, ...] = ()


class ItemError(DiffadaptError):
    """One item (image, prompt) that cannot be processed; it is quarantined and the rest goes on."""


def kinds(of: type[DiffadaptError] = DiffadaptError) -> dict[str, type[DiffadaptError]]:
    """The classes that derive from ``of``, by name: a receipt names the class of its error."""
    found = {c.__name__: c for c in of.__subclasses__()}
    return {name: c for one in found.values() for name, c in kinds(one).items()} | found


def suggest(name: str, options: Iterable[str]) -> str:
    """A ' Did you mean ...?' suffix naming the nearest option, or an empty string."""
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
