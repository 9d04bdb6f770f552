"""``diffadapt submit``: the words of ``run`` or ``sweep``, carried out as a job of a cluster; its log here
until it ends."""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.core.store import redact, safe_name

if TYPE_CHECKING:
    from diffadapt.orchestrate.jobs import JobServer

HELP = """usage: diffadapt submit <recipe> [fields] --root <place> [options]
       diffadapt submit sweep <space> --recipe <recipe> [...] --root <place> [options]

Run a recipe or a sweep as a job of a Ray cluster. The words are those of `diffadapt run` and `diffadapt sweep`, and are
checked here before anything is sent. Package, recipes and spaces travel with the job; data and results do not.
`run` and `sweep` before the name may be left out where the name says which (tune_spaces/digits is a sweep).

  --address URL          the job server, http://head:8265; default: DIFFADAPT_ADDRESS, RAY_ADDRESS, else this machine's
  --root PLACE           where results go: an absolute path or URL that all nodes see; default: DIFFADAPT_ROOT
  --no-wait              print the job's name and return; otherwise its log follows, and the exit status is the job's
  --submission-id NAME   the job's name; default: the recipe's and a few random letters
  --env NAME[=VALUE]     a variable for the job, with its value here if none is given (repeat for more); nothing else of
                         this shell's environment travels. Ray keeps it with the job, readable by whoever may use the
                         cluster: prefer roles of the machines (an instance profile) to keys

Ctrl-C while the log follows leaves the job running. Submitting the same line again follows the job that already runs it,
or, after a job that ended or was stopped, goes on from what is finished.

Example: diffadapt submit quickstart --root /shared/diffadapt

  $ diffadapt submit sweep digits --recipe adapt_anything/digits --root s3://bucket/diffadapt --env AWS_PROFILE
  $ diffadapt status --address http://head:8265            # jobs, runs and sweeps
  $ diffadapt job logs last --follow                       # also: job ls, job stop

`diffadapt submit <recipe> --help` shows the recipe's fields."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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

    from diffadapt.commands.submit_check import read, resolve_places

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
