"""Search spaces over recipe fields: what varies, and how it is searched. A space is a frozen value that
``tune_spaces/*.py`` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diffadapt.core.config import execution
from diffadapt.core.errors import RecipeError, suggest

VALIDATORS = ("im", "entropy", "bnm", "corrc", "snd", "mano")
"""Label-free objectives: validators of stored logits, higher is better (metrics/validators.py)."""
ORACLE = "oracle"
ESTIMATED = "estimated"
"""ZoDi: mean IoU on transferred test images of the source; needs neither labels nor images of the target."""
OBJECTIVES = (*VALIDATORS, ESTIMATED, ORACLE)


@dataclass(frozen=True)
class Choice:
    """One of ``values``. ``sets`` names the fields that take the value; empty: the axis's own name."""

    values: tuple[Any, ...]
    sets: tuple[str, ...] = ()

    def __init__(self, *values: Any, sets: tuple[str, ...] = ()):
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "sets", tuple(sets))

    def at(self, u: float) -> Any:
        """The value at ``u`` in [0, 1) of the axis."""
        return self.values[int(u * len(self.values))]

    def ends(self) -> tuple[Any, ...]:
        """Values that the recipe must accept for the whole axis to be acceptable."""
        return self.values


@dataclass(frozen=True)
class Uniform:
    """A real number from ``low`` to ``high``; with ``log`` uniform in its logarithm."""

    low: float
    high: float
    log: bool = False
    sets: tuple[str, ...] = ()

    def at(self, u: float) -> float:
        return self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)

    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.high)


@dataclass(frozen=True)
class Integers:
    """A whole number from ``low`` to ``high``, both included, in steps of ``step``."""

    low: int
    high: int
    step: int = 1
    sets: tuple[str, ...] = ()

    def at(self, u: float) -> int:
        return self.low + self.step * int(u * ((self.high - self.low) // self.step + 1))

    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.high)


Axis = Choice | Uniform | Integers


@dataclass(frozen=True)
class SearchConfig:
    """How a space is searched."""

    searcher: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination; random: independent draws; optuna: TPE, which learns from the trials so far.
    """
    trials: int = 0
    """Trials of random and optuna. A larger number later goes on from the smaller one."""
    scheduler: Literal["none", "asha", "hyperband", "pbt"] = "none"
    """asha and hyperband stop poor trials between epochs; pbt trains a population whose poor members take
    over better ones."""
    objective: str = "im"
    """A label-free validator of the result's predictions on the target (im, entropy, bnm, corrc, snd, mano;
    higher is better), 'estimated' (ZoDi: mean IoU on transferred test images of the source), or 'oracle':
    accuracy on target labels, an upper bound that every table and card then names."""
    cost: Literal["none", "device_hours"] = "none"
    """device_hours: optuna searches for the front of objective against hours (two objectives)."""
    seed: int = 0
    grace_epochs: int = 1
    """asha, hyperband: epochs that every trial gets. pbt: epochs between exchanges."""
    reduction: int = 3
    """asha, hyperband: one of so many goes on at each rung."""
    concurrent: int = execution(0)
    """Trials side by side; 0: as many as the cluster holds."""
    retries: int = execution(2)
    """Restarts of a trial whose worker was lost (also of one that is out of memory, with a smaller batch)."""


@dataclass(frozen=True)
class Space:
    """What a sweep varies. ``axes``: field (or a name of one's own, with ``sets``) -> axis; ``base``: fields
    set for all trials."""

    axes: Mapping[str, Axis]
    search: SearchConfig = SearchConfig()
    base: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    """The recipe that is meant; --recipe gives another."""

    def fields(self, axis: str) -> tuple[str, ...]:
        """The recipe fields that an axis sets."""
        return self.axes[axis].sets or (axis,)

    def changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Recipe field -> value for one trial with ``values`` (axis -> value)."""
        return {**self.base, **{f: values[a] for a in self.axes for f in self.fields(a)}}


def check(space: Space, recipes: Mapping[str, Any]) -> None:
    """RecipeError for a space that does not fit every recipe (name -> value): fields, types, ranges,
    searcher, objective."""
    from diffadapt.core.config import field_types, override
    from diffadapt.core.ranges import check_limits

    _check_search(space)
    for recipe_name, recipe in recipes.items():
        known = field_types(recipe)
        _check_objective(space.search.objective, recipe_name, known)
        for name in space.axes:
            for dotted in space.fields(name):
                if dotted not in known:
                    raise RecipeError(
                        f"The space varies {dotted!r}, which the recipe {recipe_name} does not"
                        f" have.{suggest(dotted, known)} `diffadapt show {recipe_name}` lists its fields."
                    )
                if dotted.startswith("execution.") or dotted not in _identity_fields(recipe):
                    raise RecipeError(
                        f"The space varies {dotted!r}, which changes how fast or where work is done but not"
                        " what is made: all trials would be the same; take it out of the space."
                    )
        for name, axis in space.axes.items():
            for value in axis.ends():
                try:
                    check_limits(override(recipe, {**space.base, **dict.fromkeys(space.fields(name), value)}))
                except RecipeError as error:
                    raise RecipeError(
                        f"The axis {name!r} does not fit the recipe {recipe_name}: {error}"
                    ) from None


def _check_objective(name: str, recipe_name: str, known: Mapping[str, Any]) -> None:
    dense = "transfer.method" in known
    if name == ESTIMATED and "estimate" not in known:
        raise RecipeError(
            f"The objective 'estimated' is one of ZoDi's segmentation, and the recipe {recipe_name} has no"
            " transferred scenes: choose a label-free one such as im."
        )
    if dense and name not in (ESTIMATED, ORACLE):
        raise RecipeError(
            f"The recipe {recipe_name} predicts scenes and stores no logits for {name!r} to look at: use"
            f" --search.objective {ESTIMATED} (or {ORACLE})."
        )


def _identity_fields(recipe: Any) -> set[str]:
    from diffadapt.core.config import to_dict

    def leaves(value: Any, prefix: str = "") -> set[str]:
        if not isinstance(value, dict) or not value:
            return {prefix[:-1]}
        return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{prefix}{key}.")}

    return leaves(to_dict(recipe, identity_only=True))


def _check_search(space: Space) -> None:
    search = space.search
    if not space.axes:
        raise RecipeError(
            "The space varies nothing: give it an axis, such as --axis generator.guidance=1,2,4."
        )
    for name, axis in space.axes.items():
        if isinstance(axis, Choice):
            if not axis.values:
                raise RecipeError(f"The axis {name!r} has no value: give at least one.")
            if len({repr(v) for v in axis.values}) < len(axis.values):
                raise RecipeError(
                    f"The axis {name!r} names a value twice: every value would be tried twice; name it once."
                )
        elif (
            axis.low > axis.high
            or (isinstance(axis, Uniform) and axis.log and axis.low <= 0)
            or (isinstance(axis, Integers) and axis.step < 1)
        ):
            raise RecipeError(
                f"The axis {name!r} runs from {axis.low} to {axis.high}: low must not exceed high, a"
                " logarithmic axis starts above 0, a step is at least 1."
            )
        elif search.searcher == "grid":
            raise RecipeError(
                f"The axis {name!r} is a range, which a grid cannot list: name its values, or use"
                " --search.searcher random or optuna."
            )
    if search.searcher != "grid" and search.trials < 1:
        raise RecipeError(
            f"--search.searcher {search.searcher} needs a number of trials: give --search.trials."
        )
    if search.objective not in OBJECTIVES:
        raise RecipeError(
            f"There is no objective {search.objective!r}.{suggest(search.objective, OBJECTIVES)} Known are:"
            f" {', '.join(OBJECTIVES)}."
        )
    if search.cost != "none" and search.searcher != "optuna":
        raise RecipeError(
            "Two objectives (--search.cost device_hours) need --search.searcher optuna; the report shows the"
            " front of accuracy against hours for any searcher."
        )
    if search.cost != "none" and search.scheduler != "none":
        raise RecipeError(
            "A scheduler stops trials by one objective: use --search.scheduler none with --search.cost"
            " device_hours."
        )
    if search.scheduler == "pbt" and search.searcher != "random":
        raise RecipeError(
            "Population-based training draws its members: use --search.searcher random with"
            " --search.scheduler pbt."
        )
    if (
        search.scheduler in ("asha", "hyperband")
        and search.searcher == "grid"
        and space_size(space) < search.reduction
    ):
        raise RecipeError(
            f"--search.scheduler {search.scheduler} keeps one of {search.reduction} trials, and there are"
            f" {space_size(space)}: add trials, or leave the scheduler out."
        )
    for name, low in (
        ("trials", 0),
        ("seed", 0),
        ("grace_epochs", 1),
        ("reduction", 2),
        ("concurrent", 0),
        ("retries", 0),
    ):
        if getattr(search, name) < low:
            raise RecipeError(f"search.{name} is {getattr(search, name)} but must be at least {low}.")


def space_size(space: Space) -> int:
    """Combinations of a grid (ranges count as 1)."""
    size = 1
    for axis in space.axes.values():
        size *= len(axis.values) if isinstance(axis, Choice) else 1
    return size
