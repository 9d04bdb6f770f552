"""``diffadapt submit``: the words of ``run`` or ``sweep``, carried out as a job of a cluster; its log here
until it ends. What the words name is made sure of before anything is sent."""

from __future__ import annotations

import glob
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffadapt.commands.options import parse_recipe
from diffadapt.commands.run import RunOptions
from diffadapt.core.config import field_types
from diffadapt.core.errors import DataError, DiffadaptError, RecipeError, StoreError, WeightsError
from diffadapt.core.identity import digest
from diffadapt.core.leniency import lenient
from diffadapt.core.redact import redact
from diffadapt.core.store import safe_name

if TYPE_CHECKING:
    from diffadapt.orchestrate.jobs import JobServer

HELP = """usage: diffadapt submit <recipe> [fields] --root <place> [options]
       diffadapt submit sweep <space> --recipe <recipe> [...] --root <place> [options]

Run a recipe or a sweep as a job of a Ray cluster. The words are those of `diffadapt run` and \
`diffadapt sweep`, and are
checked here before anything is sent. Package, recipes and spaces travel with the job; data and \
results do not.
`run` and `sweep` before the name may be left out where the name says which (tune_spaces/digits is a sweep).

  --address URL          the job server, http://head:8265; default: DIFFADAPT_ADDRESS, RAY_ADDRESS, \
else this machine's
  --root PLACE           where results go: an absolute path or URL that all nodes see; default: DIFFADAPT_ROOT
  --no-wait              print the job's name and return; otherwise its log follows, and the exit \
status is the job's
  --submission-id NAME   the job's name; default: the recipe's and a few random letters
  --env NAME[=VALUE]     a variable for the job, with its value here if none is given (repeat for \
more); nothing else of
                         this shell's environment travels. Ray keeps it with the job, readable by \
whoever may use the
                         cluster: prefer roles of the machines (an instance profile) to keys

Ctrl-C while the log follows leaves the job running. Submitting the same line again follows the job \
that already runs it,
or, after a job that ended or was stopped, goes on from what is finished.

Example: diffadapt submit quickstart --root /shared/diffadapt

  $ diffadapt submit sweep digits --recipe adapt_anything/digits --root s3://bucket/diffadapt --env \
AWS_PROFILE
  $ diffadapt status --address http://head:8265            # jobs, runs and sweeps
  $ diffadapt job logs last --follow                       # also: job ls, job stop

`diffadapt submit <recipe> --help` shows the recipe's fields."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


PLACES = {"path", "labels", "classes", "file", "frost_textures"}
"""Fields, by their last name, that hold a path where they hold neither a URL nor a name of the package's own.
"""
PLACES_OR_NAMES = {"weights", "name", "clip", "latent", "model"}
"""Fields that hold a hub id, a timm name or a path: a path where there is such a file or folder."""


@dataclass
class SubmitOptions:
    """What ``submit`` itself is told."""

    address: str = ""
    job: str = ""
    wait: bool = True
    env: dict[str, str] = field(default_factory=dict)


def submit(argv: Sequence[str]) -> int:
    options, words = split(argv)
    if (
        not words
        or words[0] in ("-h", "--help")
        or (words[0] in ("run", "sweep") and words[1:2] in ([], ["-h"], ["--help"]))
    ):
        print(HELP)
        return 0 if words[-1:] in (["-h"], ["--help"]) else 2

    task = read(words)

    from diffadapt.orchestrate.bundle import MIB, bundle
    from diffadapt.orchestrate.jobs import JobServer, check

    server = JobServer(options.address)
    cluster = server.cluster()
    check(cluster)
    task, notes = resolve_places(task, cluster.here)
    _say(
        f"cluster  {redact(server.address)}: {cluster.nodes} {'node' if cluster.nodes == 1 else 'nodes'}, Ray"
        f" {cluster.ray}, Python {cluster.python}"
    )
    _say(f"root     {task.root}")
    for note in notes:
        _say(f"note     {note}")
    line = digest({"words": list(task.words), "root": task.root}, 16)
    running = next(
        (
            j
            for j in server.jobs()
            if not j.status.is_terminal() and (j.metadata or {}).get("diffadapt_line") == line
        ),
        None,
    )
    if running is not None and not options.job:
        name = str(running.submission_id)
        _say(
            f"job      {name} runs this line already; nothing was sent. `diffadapt job stop {name} --address"
            f" {redact(server.address)}` ends it."
        )
    else:
        name = (
            options.job
            or f"{safe_name(task.title.replace('/', '-')).strip('._-')[:60]}-{secrets.token_hex(3)}"
        )
        with bundle(task.files) as parcel:
            server.send(
                [*task.words, "--root", task.root],
                parcel,
                options.env,
                name,
                {"diffadapt_line": line, "diffadapt_root": task.root},
            )
            _say(f"job      {name} ({parcel.size / MIB:.1f} MiB of code and recipes)")
    if not options.wait:
        _say(_where(server, name))
        print(name)
        return 0
    return follow(server, name)


def follow(server: JobServer, name: str) -> int:
    """Print a job's log until it ends; its exit status (130 for a job that was stopped, and for Ctrl-C here,
    which leaves the job running)."""
    from diffadapt.core.units import format_seconds

    started = time.monotonic()
    try:
        job = server.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        _say(f"\nThe job {name} goes on without this terminal. {_where(server, name)}")
        return 130
    status = str(job.status)
    took = (
        ((job.end_time or 0) - (job.start_time or 0)) / 1000 if job.end_time else time.monotonic() - started
    )
    if status == "SUCCEEDED":
        _say(f"\njob      {name} succeeded ({format_seconds(took)})")
        return 0
    if status == "STOPPED":
        _say(
            f"\njob      {name} was stopped after {format_seconds(took)}. Everything finished is kept; submit"
            " the same line to go on."
        )
        return 130
    code = job.driver_exit_code
    reason = redact((job.message or "no reason given").strip().splitlines()[-1])
    if code is None:
        _say(f"\njob      {name} did not come to run: {reason} Submit the same line again.")
        return 1
    _say(
        f"\njob      {name} failed with exit status {code} after {format_seconds(took)}. Everything finished"
        " is kept; submit the same line to go on."
    )
    return code or 1


def split(argv: Sequence[str]) -> tuple[SubmitOptions, list[str]]:
    """The options of ``submit``, wherever they stand, and the words of the task. RecipeError for one without
    a usable value."""
    options, words, arguments = SubmitOptions(), [], list(argv)
    while arguments:
        word = arguments.pop(0)
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if name == "--no-wait" and not equals:
            options.wait = False
        elif name in ("--address", "--submission-id", "--env"):
            if not equals:
                value = arguments.pop(0) if arguments and not arguments[0].startswith("--") else ""
            if not value:
                raise RecipeError(f"{name} needs a value.")
            if name == "--address":
                options.address = value
            elif name == "--env":
                options.env.update(_variable(value))
            elif not NAME.fullmatch(value):
                raise RecipeError(
                    f"--submission-id {value!r} is no name for a job: use letters, digits, dots, dashes and"
                    " underscores."
                )
            else:
                options.job = value
        else:
            words.append(word)
    return options, words


def _variable(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    if not VARIABLE.fullmatch(name):
        raise RecipeError("--env wants NAME or NAME=value; what was given starts with no name of a variable.")
    if name.startswith("RAY_AUTH_"):
        raise RecipeError(
            f"--env {name}: the cluster's token is no part of a job, whose processes have the cluster's own;"
            " leave it out."
        )
    if not equals and name not in os.environ:
        raise RecipeError(
            f"--env {name}: there is no such variable here; export it, or give --env {name}=value."
        )
    return {name: value if equals else os.environ[name]}


def _where(server: JobServer, name: str) -> str:
    said = f" --address {redact(server.address)}"
    return (
        f"`diffadapt job logs {name} --follow{said}` shows its log, `diffadapt status {name}{said}` how far"
        f" it is, `diffadapt job stop {name}{said}` ends it."
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
    task = _sweep_task(words) if command == "sweep" else _run_task(words)
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


def _run_task(words: list[str]) -> Task:
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


def _sweep_task(words: list[str]) -> Task:
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
    absolute, result, out = os.path.abspath(value), False, list(words)
    for i, word in enumerate(out[1:], 1):
        name, equals, said = word.partition("=")
        if word == value and out[i - 1].startswith("--"):
            out[i], result = absolute, True
        elif equals and said == value and name.startswith("--"):
            out[i], result = f"{name}={absolute}", True
    return out if result or absolute in out else [*out, option, absolute]


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
