"""Ranges of a recipe's values, stated beside the field (``steps: Steps = 50``) and checked before anything is
planned: a batch of 0 must not fail hours into a run.

A method may state them as ``limits = {"field": (smallest, largest)}`` instead (None: no bound).
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

from diffadapt.core.errors import RecipeError

Limits = Mapping[str, tuple[float | None, float | None]]
"""Smallest and largest value of a field, both allowed; None: no bound."""


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``, both allowed; None: no bound. ``wanted`` replaces the words "be 0 to
    1" of the message."""

    low: float | None = None
    high: float | None = None
    wanted: str = ""

    def check(self, name: str, number: float | str | None) -> None:
        """RecipeError, which calls the field ``name``, for a number outside; None, and a word that the field
        takes in a number's place, is inside."""
        low, high = self.low, self.high
        if (
            number is None
            or isinstance(number, str)
            or ((low is None or number >= low) and (high is None or number <= high))
        ):
            return
        if high is None:
            words = f"be at least {low:g}"
        elif low is None:
            words = f"be at most {high:g}"
        else:
            words = f"be {low:g} to {high:g}"
        raise RecipeError(f"{name} is {number:g} but must {self.wanted or words}.")


def AtLeast(low: float) -> Between:  # noqa: N802 - reads as a type beside Between
    """A number of ``low`` or more."""
    return Between(low)


@dataclass(frozen=True)
class Matching:
    """A text that the regular expression ``pattern`` matches as a whole; ``wanted`` says so in words."""

    pattern: str
    wanted: str

    def check(self, name: str, text: Any) -> None:
        """RecipeError, which calls the field ``name``, for a text that does not match."""
        if not re.fullmatch(self.pattern, text):
            raise RecipeError(f"{name} is {text!r} but must be {self.wanted}.")


Range = Between | Matching
Positive = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
NonNegative = Annotated[float, AtLeast(0)]
AboveZero = Annotated[float, AtLeast(1e-6)]
Fraction = Annotated[float, Between(0, 1)]
Seed = Annotated[int, Between(0, 2**63 - 1)]
"""What torch and a column of 64 bits take."""
Steps = Annotated[int, Between(1, 1000)]
"""Steps of a sampler; diffusion models have 1000 levels of noise."""


def check_limits(recipe: Any, prefix: str = "") -> None:
    """Raise RecipeError for the first value of ``recipe``, a tree of configurations, that is out of its
    range."""
    limits = limits_of(type(recipe))
    for f in fields(recipe):
        value, name = getattr(recipe, f.name), prefix + f.name
        if is_dataclass(value):
            check_limits(value, f"{name}.")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise RecipeError(f"{name} is {one} but must be a finite number.")
            if f.name in limits:
                limits[f.name].check(name, one)


def limits_of(cls: type) -> dict[str, Range]:
    """The ranges of a configuration's fields. A subclass that gives a field another default keeps its
    range."""
    result: dict[str, Range] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            for name, hint in inspect.get_annotations(base, eval_str=True).items():
                if stated := next(_ranges(hint), None):
                    result[name] = stated
        limits: Limits = vars(base).get("limits", {})
        result |= {name: Between(*bounds) for name, bounds in limits.items()}
    return result


def _ranges(hint: Any) -> Iterator[Range]:
    """The ranges within a type: of the number itself, or of a tuple's or a union's members."""
    if typing.get_origin(hint) is Annotated:
        yield from (note for note in hint.__metadata__ if isinstance(note, Range))
    for inner in typing.get_args(hint):
        yield from _ranges(inner)
