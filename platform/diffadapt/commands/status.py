"""``diffadapt status``: runs and sweeps, newest first, the jobs of a cluster, and how far each is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import DiffadaptError, ResourceError, StoreError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root, Run, near
from diffadapt.core.store import Store
from diffadapt.run.state import done_of, state_of
from diffadapt.sweeps.folder import Sweep, sweeps
from diffadapt.sweeps.result import values_text

TRIALS_SHOWN = 50


@dataclass(frozen=True)
class StatusOptions(RootOption):
    run: tyro.conf.Positional[str] = ""
    """A run's, sweep's or job's name or prefix, or 'last' (the newest run); default: everything."""
    address: str = ""
    """The job server of a cluster, http://head:8265: its jobs too; default: DIFFADAPT_ADDRESS or RAY_ADDRESS,
    else no jobs."""


def status(argv: Sequence[str]) -> int:
    options = parse(StatusOptions, argv, "status")
    root = options.open()
    if options.run:
        print(redact("\n".join(_named(root, options))))
        return 0
    shown = list(_all(root))
    jobs = list(_jobs(options.address))
    if not shown and not jobs:
        print(f"No runs under {redact(root.location)}. `diffadapt run quickstart` makes one.")
    print("\n".join([*shown, *([""] if shown and jobs else []), *jobs]), end="\n" if shown or jobs else "")
    return 0


def _all(root: Root) -> Iterator[str]:
    yield from root.runs.each(lambda name: _line(Run(root, name)), root.names())
    names = sweeps(root)
    found = zip(root.sweeps.each(lambda name: Sweep(root, name).status(), names), names, strict=True)
    ordered = [name for _, name in sorted(found, key=lambda pair: -float(pair[0].get("updated") or 0))]
    yield from root.sweeps.each(lambda name: _line(Sweep(root, name), "trials"), ordered)


def _jobs(address: str) -> Iterator[str]:
    """The jobs of a cluster that was named; one that the environment names and that does not answer is a
    remark only."""
    if not address and not (os.environ.get("DIFFADAPT_ADDRESS") or os.environ.get("RAY_ADDRESS")):
        return
    from diffadapt.commands.job import lines
    from diffadapt.orchestrate.jobs import JobServer

    try:
        server = JobServer(address)
        yield f"jobs at {redact(server.address)}"
        yield from lines(server)
    except ResourceError as error:
        if address:
            raise
        yield str(error)


def _named(root: Root, options: StatusOptions) -> list[str]:
    """One run, sweep or job by its name or prefix."""
    known = {**{n: "run" for n in root.names()}, **{n: "sweep" for n in sweeps(root)}}
    short = options.run.rstrip("/").split("/")[-1]
    if short == "last" and not options.address:
        return _describe(root.run("last"))
    matches = [n for n in known if n == short] or [n for n in known if n.startswith(short)]
    if not matches and (
        options.address or os.environ.get("DIFFADAPT_ADDRESS") or os.environ.get("RAY_ADDRESS")
    ):
        return _job(options.run, options.address)
    if len(matches) > 1:
        raise StoreError(
            f"{options.run!r} fits several runs: {', '.join(matches[:5])}; give more of the name."
        )
    if not matches:
        raise StoreError(
            f"There is no run, sweep or job {options.run!r} under"
            f" {redact(root.location)}.{near(short, known)} `diffadapt status` lists them; --root gives"
            " another place, --address a cluster's jobs."
        )
    return (
        _describe_sweep(Sweep(root, matches[0]))
        if known[matches[0]] == "sweep"
        else _describe(Run(root, matches[0]))
    )


def _job(name: str, address: str) -> list[str]:
    from diffadapt.commands.job import line
    from diffadapt.orchestrate.jobs import JobServer

    found = JobServer(address).job(name)
    out = [line(found)]
    place = (found.metadata or {}).get("diffadapt_root")
    if not place:
        return [
            *out,
            "",
            (
                "It was not sent by `diffadapt submit`, so that its root is not known: `diffadapt status"
                " --root ...` shows its runs."
            ),
        ]
    out += ["", f"root {redact(place)}"]
    try:
        root = Root(place)
        root.store.check()
        runs = [_describe(Run(root, n)) for n in _of_job(root.runs, Run, root, root.names(), found)]
        named = _of_job(root.sweeps, Sweep, root, sweeps(root), found)
        swept = [_describe_sweep(Sweep(root, n)) for n in named]
    except (DiffadaptError, OSError, ImportError) as error:
        return [*out, f"Its runs cannot be read from here ({str(error).splitlines()[0]})."]
    for text in (*runs, *swept):
        out += ["", *text]
    return (
        out
        if runs or swept
        else [
            *out,
            (
                "No run of it can be seen there from here: it has not begun yet, or the root is not shared"
                " with this machine."
            ),
        ]
    )


def _of_job(place: Store, kind: type, root: Root, names: list[str], job: Any) -> list[str]:
    """Those of ``names`` whose status names the job."""
    jobs = place.each(lambda name: kind(root, name).status().get("job"), names)
    return [name for name, of in zip(names, jobs, strict=True) if of == job.submission_id]


def _line(run: Run, what: str = "shards") -> str:
    status = run.status()
    done, total = done_of(status)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.get("updated", 0)))
    return f"{run.name:<44} {state_of(status):<12} {done}/{total} {what}  {when}"


def _describe(run: Run) -> list[str]:
    status = run.status()
    lines = [_line(run), *([f"  job {status['job']}"] if status.get("job") else []), ""]
    for name, n in status.get("nodes", {}).items():
        text = f"  {name:<28} {n['done'] + n['hits']}/{n['shards']} shards"
        if n.get("images_per_second"):
            text += f"  {n['images_per_second']:.1f} images/s"
        if n.get("quarantined"):
            text += f"  {n['quarantined']} quarantined"
        lines.append(text)
    return [*lines, "", status["error"]] if status.get("error") else lines


def _describe_sweep(sweep: Sweep) -> list[str]:
    """A sweep's trials: those that have ended with what came out, those under way with how far they are."""
    status = sweep.status()
    lines = [_line(sweep, "trials"), *([f"  job {status['job']}"] if status.get("job") else []), ""]
    ended = {r.id: r for r in sweep.results()}
    for r in list(ended.values())[:TRIALS_SHOWN]:
        came = (
            f"  {r.error}"
            if r.status == "failed"
            else ""
            if r.objective is None
            else f"  {r.objective_name} {r.objective:.4f}"
        )
        accuracy = f"  accuracy {r.accuracy:.1f}" if r.accuracy is not None else ""
        lines.append(f"  {r.id:<28} {r.status:<9} {values_text(r.values)}{came}{accuracy}")
    if len(ended) > TRIALS_SHOWN:
        lines.append(f"  {len(ended) - TRIALS_SHOWN} more trials are in sweep.parquet and the report.")
    for name in sorted(sweep.trial("").place.list("")):
        if name not in ended and state_of(sweep.trial(name).status()) == "running":
            lines.append("  " + _line(sweep.trial(name)))
    return [*lines, "", status["error"]] if status.get("error") else lines
