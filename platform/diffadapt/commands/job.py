"""``diffadapt job ls|logs|stop``: the jobs of a cluster, from any shell."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from diffadapt.commands.options import parse
from diffadapt.core.errors import RecipeError
from diffadapt.core.redact import redact

if TYPE_CHECKING:
    from diffadapt.orchestrate.jobs import JobServer


@dataclass(frozen=True)
class JobOptions:
    what: tyro.conf.Positional[Literal["ls", "logs", "stop"]] = "ls"
    """ls: every job; logs: what a job has printed; stop: end a job, which keeps what it has finished."""
    name: tyro.conf.Positional[str] = ""
    """The job's name, its unique prefix, or 'last'."""
    address: str = ""
    """The job server, http://head:8265; default: DIFFADAPT_ADDRESS, RAY_ADDRESS, else this machine's."""
    follow: tyro.conf.FlagCreatePairsOff[bool] = False
    """logs: until the job ends; the exit status is the job's. Ctrl-C leaves it running."""


def job(argv: Sequence[str]) -> int:
    options = parse(JobOptions, argv, "job")
    if options.what != "ls" and not options.name:
        raise RecipeError(
            f"Which job? Give its name, or 'last': diffadapt job {options.what} <name>; `diffadapt job ls`"
            " lists them."
        )

    from diffadapt.orchestrate.jobs import STOP_SECONDS, JobServer

    server = JobServer(options.address)
    if options.what == "ls":
        print("\n".join(lines(server)))
        return 0
    name = str(server.job(options.name).submission_id)
    if options.what == "stop":
        if not server.stop(name):
            print(f"{name} had ended before ({str(server.job(name).status).lower()}).")
            return 0
        print(f"{name} was asked to stop; waiting until it has.", file=sys.stderr, flush=True)
        ended = server.wait(name, STOP_SECONDS + 10)
        if not ended.status.is_terminal():
            print(f"{name} has not ended yet; `diffadapt job ls` shows when it has.", file=sys.stderr)
            return 1
        print(
            f"{name}: {str(ended.status).lower()}. Everything finished is kept; submit the same line to"
            " go on."
        )
        return 0
    if options.follow:
        from diffadapt.commands.submit import follow

        return follow(server, name)
    print(server.logs(name), end="")
    return 0


def lines(server: JobServer) -> list[str]:
    """A line a job, newest first."""
    jobs = server.jobs()
    return (
        [line(j) for j in jobs]
        if jobs
        else [f"No jobs at {redact(server.address)}. `diffadapt submit <recipe>` sends one."]
    )


def line(found: Any) -> str:
    """Name, state, start and command of a job."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((found.start_time or 0) / 1000))
    command = str(found.entrypoint).removeprefix("exec python3 -m diffadapt.cli ")
    return f"{str(found.submission_id):<44} {str(found.status).lower():<12} {when}  {redact(command)[:120]}"
