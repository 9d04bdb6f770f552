"""Searches over recipe fields: planned, carried out, and what came of them."""

from __future__ import annotations

import html
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffadapt.api import runners
from diffadapt.api.apart import Tell, call_apart
from diffadapt.api.calls import called
from diffadapt.api.places import Place, open_root
from diffadapt.api.precision import settled
from diffadapt.api.recipe import Recipe, as_recipe
from diffadapt.core.config import changes, field_types, override
from diffadapt.core.errors import RecipeError, StoreError, TrainingError, suggest
from diffadapt.core.ranges import check_limits
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import SweepPlan, SweepRequest, plan_sweep, run_sweep
from diffadapt.sweeps.folder import Sweep as Folder
from diffadapt.sweeps.space import Axis, Choice, Integers, Space, Uniform
from diffadapt.sweeps.spaces import load_space

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]


class Sweep:
    """A search under a root. ``folder``: its files."""

    def __init__(self, folder: Folder):
        self.folder = folder

    @property
    def name(self) -> str:
        """As `diffadapt status` has it."""
        return self.folder.name

    @property
    def url(self) -> str:
        """Where its folder lies."""
        return self.folder.url

    @property
    def trials(self) -> pd.DataFrame:
        """sweep.parquet: a row a trial with its values (``value.<field>``), objective, accuracy where labels
        are known, and device hours. StoreError before the first has ended."""
        import pandas as pd

        if not self.folder.has("sweep.parquet"):
            raise StoreError(f"The sweep {self.name} has no table yet: no trial of it has ended.")
        return pd.read_parquet(io.BytesIO(self.folder.read("sweep.parquet")))

    @property
    def best(self) -> Recipe:
        """The recommended recipe: that of the best setting by the objective. StoreError where no trial has
        finished."""
        from diffadapt.api.recipe import recipe

        if not self.folder.has("recommended.json"):
            raise StoreError(f"The sweep {self.name} recommends nothing: no trial of it has finished.")
        return recipe(f"{self.url}/recommended.json")

    def __str__(self) -> str:
        from diffadapt.sweeps.report.text import sweep_text

        return f"{self.name}\n\n{sweep_text(self.folder, colour=False)}"

    def __repr__(self) -> str:
        return f"<Sweep {self.name}>"

    def _repr_html_(self) -> str:
        if not self.folder.has("sweep.parquet"):
            return f"<p>{html.escape(self.name)}</p>"
        table = self.trials
        shown = [c for c in table.columns if c.startswith("value.")]
        table = table[["status", *shown, "objective", "accuracy", "device_hours"]]
        table.columns = [c.removeprefix("value.") for c in table.columns]
        table = table.dropna(axis="columns", how="all")
        return f"<p>{html.escape(self.name)}</p>{table.to_html(index=False, float_format='{:.4g}'.format)}"


@dataclass(frozen=True)
class Prepared:
    """A search on a root, planned. ``plan``: its trials and what they share."""

    request: SweepRequest
    root: Root
    execution: ExecutionConfig
    plan: SweepPlan


@called
def sweep(
    space: str | Space | Mapping[str, Any],
    recipe: Any = None,
    *,
    root: Place | None = None,
    search: Mapping[str, Any] | None = None,
    runner: str | None = None,
    progress: bool = True,
) -> Sweep:
    """Search fields of ``recipe``; the same call goes on after anything.

    ``space``: a name that ``diffadapt ls spaces`` lists, a Space, or fields with what to try: a list
    (``{"align.scale": [1, 2, 4]}``), or a Uniform or Integers of ``diffadapt.sweeps.space``. ``search``: how,
    by the names of ``--search`` (searcher, trials, objective, ...). ``recipe``: by default the one that the
    space names; it has to be one that ``diffadapt ls`` lists.

    Raises RecipeError for a space that does not fit the recipe, TrainingError where every trial failed.
    """
    name, found = space_of(space)
    if search:
        settings = field_types(found.search)
        if unknown := next((s for s in search if s not in settings), None):
            raise RecipeError(
                f"A search has no setting {unknown!r}.{suggest(unknown, settings)} It has:"
                f" {', '.join(settings)}."
            )
        found = replace(found, search=override(found.search, dict(search)))
        check_limits(found.search)
    if recipe is None and not found.recipe:
        raise RecipeError(f"The space {name} names no recipe: give one; `diffadapt ls` lists them.")
    told = as_recipe(recipe if recipe is not None else found.recipe)
    if runner is not None:
        told = replace(told, value=override(told.value, {"execution.runner": runner}))
    overrides = {k: v for k, v in told.overrides.items() if not k.startswith("execution.")}
    request = SweepRequest(name, found, {told.name: told.value}, overrides, quiet=not progress)
    prepared = prepare(request, open_root(root))
    tell = say if progress else lambda line: None
    if runners.fans_on_ray(prepared.execution):
        told_of = call_apart(sweep_apart, prepared.request, prepared.root.location, say=tell)
        done = Sweep(Folder(prepared.root, told_of))
    else:
        done = Sweep(carry_out(prepared, tell))
    demand_one(done.folder)
    return done


def sweep_apart(request: SweepRequest, place: str, tell: Tell) -> str:
    """The search in a process of its own; returns its name."""
    return carry_out(prepare(request, open_root(place)), lambda line: tell("line", (line,))).name


def space_of(space: str | Space | Mapping[str, Any]) -> tuple[str, Space]:
    """(name, space) of what :func:`sweep` takes. RecipeError for anything else."""
    if isinstance(space, str):
        return load_space(space)
    if isinstance(space, Space):
        return "space", space
    if not isinstance(space, Mapping) or not space:
        raise RecipeError(
            f"A {type(space).__name__} is no search space: give a name that `diffadapt ls spaces` lists, a"
            ' Space, or fields and their values, such as {"align.scale": [1, 2, 4]}.'
        )
    return "axes", Space({field: _axis(field, values) for field, values in space.items()})


def _axis(field: str, values: Any) -> Axis:
    if isinstance(values, (Choice, Uniform, Integers)):
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise RecipeError(f"The values of {field} are {values!r}, but must be a list of what to try.")
    return Choice(*values)


def prepare(request: SweepRequest, root: Root, machine: Any = None) -> Prepared:
    """Plan a search; what a device decides of its recipes is decided, and kept in ``overrides``."""
    decided = {name: settled(recipe, machine) for name, recipe in request.recipes.items()}
    first = next(iter(decided))
    overrides = {**request.overrides, **changes(request.recipes[first], decided[first])}
    request = replace(request, recipes=decided, overrides=overrides)
    return Prepared(request, root, decided[first].execution, plan_sweep(request.space, decided, root))


def carry_out(prepared: Prepared, say: Say) -> Folder:
    """Carry a search out, or go on with it."""
    p = prepared
    return run_sweep(
        p.request,
        p.root,
        p.execution,
        lambda e: runners.make_runner(e),
        lambda e: runners.make_fan(e),
        say,
        p.plan,
    )


def demand_one(sweep: Folder) -> None:
    """TrainingError where all trials failed."""
    ended = sweep.results()
    if ended and all(r.status == "failed" for r in ended):
        raise TrainingError(
            f"No trial of the sweep finished; the first one failed with: {ended[0].error} Mend that and run"
            " the same command again."
        )


def say(line: str) -> None:
    """A line of progress."""
    print(redact(line), file=sys.stderr, flush=True)
