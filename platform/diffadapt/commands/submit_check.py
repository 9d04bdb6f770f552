"""What ``diffadapt submit`` makes sure of before anything is sent: the words of ``run`` or ``sweep`` as those
commands read them, the root, and what the recipe names on this machine's disk."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffadapt.commands.options import parse_recipe
from diffadapt.commands.run import RunOptions
from diffadapt.core.config import field_types
from diffadapt.core.errors import DataError, DiffadaptError, RecipeError, StoreError, WeightsError
from diffadapt.core.leniency import lenient
from diffadapt.core.store import redact

PLACES = {"path", "labels", "classes", "file", "frost_textures"}
"""Fields, by their last name, that hold a path where they hold neither a URL nor a name of the package's own.
"""
PLACES_OR_NAMES = {"weights", "name", "clip", "latent", "model"}
"""Fields that hold a hub id, a timm name or a path: a path where there is such a file or folder."""


@dataclass(frozen=True)
class Task:
    """A checked command line. ``words``: command, recipe or space, options and fields, without --root."""

    words: tuple[str, ...]
    title: str
    root: str
    places: Mapping[str, str] = field(default_factory=dict)
    """Recipe field -> path of this machine."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files that travel along: a recipe as JSON, a space of one's own."""
    lacking: DiffadaptError | None = None
    """What a run on this machine would stop at: data, weights or a store that are not here, and may be there.
    """


def read(arguments: Sequence[str]) -> Task:
    """The task of ``[run] <recipe> [fields]`` or ``[sweep] <space> [...]``. Raises what ``run`` and ``sweep``
    raise for words that cannot be meant, and RecipeError for a root that the nodes of a cluster cannot share
    and for credentials among the words.
    """
    words = list(arguments)
    command = words.pop(0) if words[:1] in (["run"], ["sweep"]) else ("sweep" if _is_sweep(words) else "run")
    for word in words:
        _demand_no_secret(word)
    task = _sweep(words) if command == "sweep" else _run(words)
    return replace(task, root=_demand_root(task.root))


def resolve_places(task: Task, here: bool) -> tuple[Task, list[str]]:
    """The task with relative paths made absolute when the cluster is this machine (``here``), and what to be
    warned of.

    Raises RecipeError for a relative path on another machine, and what a run would stop at when the cluster
    is this machine.
    """
    if here and task.lacking is not None:
        raise task.lacking
    words, notes = list(task.words), []
    for name, value in task.places.items():
        option = f"--{name.replace('_', '-')}"
        if not os.path.isabs(value):
            if not here:
                raise RecipeError(
                    f"{option} {value} is a path relative to this folder, and a job runs in a folder of its"
                    " own on another machine: put it where all nodes of the cluster see it, and give the"
                    " absolute path or a URL."
                )
            words = _absolute(words, option, value)
        elif not here:
            notes.append(
                f"{option} {value} is a path: all nodes of the cluster must see the same files under it."
            )
    if not here and "://" not in task.root:
        notes.append(
            f"--root {task.root} is a path: all nodes of the cluster must share it (NFS or the like); a URL"
            " such as s3://bucket/folder needs no sharing."
        )
    return replace(task, words=tuple(words)), notes


def _is_sweep(words: Sequence[str]) -> bool:
    """Whether words without ``run`` or ``sweep`` before them are a sweep's: by a space's name that is no
    recipe's, or by options of sweeps alone."""
    from diffadapt.core.recipes import recipes
    from diffadapt.sweeps.spaces import spaces

    if {w.partition("=")[0] for w in words} & {"--recipe", "--benchmarks", "--axis"}:
        return True
    first = words[0] if words else ""
    if first.removeprefix("./").startswith("tune_spaces/") or first.endswith(".py"):
        return True
    return not first.startswith("-") and first in spaces() and first not in recipes()


def _run(words: list[str]) -> Task:
    name, recipe, options = parse_recipe(RunOptions, words, "submit")
    lacking = None
    try:
        with lenient():
            recipe.pipeline()
    except (DataError, WeightsError, StoreError) as error:
        lacking = error
    files, rest = {}, _without_root(words)
    if rest[0].endswith(".json") and "://" not in rest[0]:
        file = Path(rest[0])
        files[file.name] = file
        rest[0] = file.name
    return Task(("run", *rest), name, options.root, dict(_places(recipe)), files, lacking)


def _sweep(words: list[str]) -> Task:
    from diffadapt.commands.sweep import read_words
    from diffadapt.sweeps.space import check

    told = read_words(words, "submit", "submit sweep")
    said, name, recipes = told.words, told.name, told.recipes
    check(told.space, recipes)
    files, words = {}, _without_root(words)
    if said.space.endswith(".py") and Path(said.space).is_file():
        files[Path(said.space).name] = Path(said.space)
        words[0] = Path(said.space).name
    places = {k: v for recipe in recipes.values() for k, v in _places(recipe)}
    return Task(("sweep", *words), f"{name}-{next(iter(recipes))}", told.options.root, places, files)


def _places(recipe: Any) -> Iterator[tuple[str, str]]:
    """(field, value) of every path of this machine that the recipe names."""
    for dotted in field_types(recipe):
        value = recipe
        for part in dotted.split("."):
            value = getattr(value, part)
        last = dotted.rpartition(".")[2]
        if not isinstance(value, str) or not value or "://" in value:
            continue
        at_hand = bool(glob.glob(value)) if os.path.basename(value) else os.path.isdir(value)
        if last in PLACES | PLACES_OR_NAMES and (at_hand or (last in PLACES and os.path.isabs(value))):
            yield dotted, value
        elif last in PLACES and ("/" in value or "." in value) and ":" not in value:
            yield dotted, value


def _absolute(words: Sequence[str], option: str, value: str) -> list[str]:
    """``words`` with the absolute path in place of ``value``, as an option of its own where no word says
    it."""
    absolute, found, out = os.path.abspath(value), False, list(words)
    for i, word in enumerate(out[1:], 1):
        name, equals, said = word.partition("=")
        if word == value and out[i - 1].startswith("--"):
            out[i], found = absolute, True
        elif equals and said == value and name.startswith("--"):
            out[i], found = f"{name}={absolute}", True
    return out if found or absolute in out else [*out, option, absolute]


def _without_root(words: Sequence[str]) -> list[str]:
    out, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--root":
            skip = True
        elif not word.startswith("--root="):
            out.append(word)
    return out


def _demand_root(root: str) -> str:
    root = root or os.environ.get("DIFFADAPT_ROOT", "")
    if not root:
        raise RecipeError(
            "A job needs to know where results go, for it runs in a folder of its own: give --root (or"
            " DIFFADAPT_ROOT), an absolute path or a URL such as s3://bucket/folder."
        )
    if "://" not in root and not os.path.isabs(root):
        raise RecipeError(
            f"--root {root} is relative, and a job runs in a folder of its own: give an absolute path, such"
            f" as {os.path.abspath(root)}, or a URL such as s3://bucket/folder."
        )
    _demand_no_secret(root)
    return root


def _demand_no_secret(word: str) -> None:
    if redact(word) != word:
        raise RecipeError(
            f"{redact(word)} holds a password, key or token, and a job's command is kept in its log: leave it"
            " out, and pass credentials with --env NAME."
        )
