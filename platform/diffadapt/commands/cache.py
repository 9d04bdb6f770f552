"""``diffadapt cache``: what the store holds (ls), what makes two entries different (why), whether all of it
is as it was written (verify), what can go (gc)."""

from __future__ import annotations

import json
import posixpath
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from diffadapt.commands.options import RootOption
from diffadapt.core import ledger
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.files import clear_scratch
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root, Run
from diffadapt.core.sealed import read_family
from diffadapt.run.state import state_of
from diffadapt.sweeps.folder import Sweep, sweeps
from diffadapt.sweeps.verify import folders, leftovers, trials, verify

SHOW_SECONDS = 5.0


@dataclass(frozen=True)
class Ls(RootOption):
    """Families of shards and trained artefacts, with their sizes."""


@dataclass(frozen=True)
class Why(RootOption):
    """Name the fields in which two entries of the store (or two runs) differ."""

    first: tyro.conf.Positional[str] = ""
    """An entry as `cache ls` prints it (a unique prefix is enough), a run's name, or <sweep>/<trial>."""
    second: tyro.conf.Positional[str] = ""
    """The other one."""


@dataclass(frozen=True)
class Verify(RootOption):
    """Read everything that is stored, shards, fits, runs and sweeps, and name what is damaged."""

    repair: bool = False
    """Remove what is damaged, so that the next run makes it again."""


@dataclass(frozen=True)
class Gc(RootOption):
    """Delete what no run and no sweep refers to."""

    older_than_hours: float = 24.0
    """Keep everything younger (work in progress)."""
    dry_run: bool = False
    """Only say what would go."""


def cache(argv: Sequence[str]) -> int:
    from diffadapt.cli import example

    options = tyro.extras.subcommand_cli_from_dict(
        {"ls": Ls, "why": Why, "verify": Verify, "gc": Gc},
        prog="diffadapt cache",
        args=list(argv),
        description=f"The store.\n\n{example('cache')}",
    )
    root = options.open()
    return {Ls: _ls, Why: _why, Verify: _verify, Gc: _gc}[type(options)](root, options)


def _ls(root: Root, options: Ls) -> int:
    total = 0
    for entry in root.store.entries():
        total += entry["bytes"]
        print(f"{entry['path']:<60} {len(entry['files']):>7} files {size(entry['bytes']):>10}")
    print(f"{'in all':<60} {'':>13} {size(total):>10}")
    local = LocalCache()
    if copies := local.entries():
        print(f"\nCopies on this machine, in {local.folder} (the longest unused first):")
        for copy in copies:
            print(f"{copy.name[:60]:<60} {copy.when():>13} {size(copy.bytes):>10}")
        limit = f"of {size(local.limit())}"
        print(f"{'in all':<60} {limit:>13} {size(sum(c.bytes for c in copies)):>10}")
    return 0


def _why(root: Root, options: Why) -> int:
    if not options.first or not options.second:
        raise StoreError("`cache why` needs two entries of the store; `diffadapt cache ls` lists them.")
    first, second = _identity(root, options.first), _identity(root, options.second)
    rows = differences(first, second)
    if not rows:
        print("They are the same.")
    for field, a, b in rows:
        print(f"{field}: {a} | {b}")
    return 0


def _verify(root: Root, options: Verify) -> int:
    damages, unread, files, shown = 0, 0, 0, time.monotonic()
    for damage in verify(root):
        files += damage.files
        if not damage.names and time.monotonic() - shown > SHOW_SECONDS:
            shown = time.monotonic()
            print(f"{files} files read, at {damage.where}", file=sys.stderr)
        if damage.unread:
            unread += 1
            print(f"not read: {damage.where}: {damage.unread}")
        for name in damage.names:
            damages += 1
            print(f"damaged: {damage.where}/{name}")
        if options.repair:
            damage.drop()
    removed = " and removed" if damages and options.repair else ""
    print(f"{files} files read, {damages} damaged{removed}" + (f", {unread} not read" if unread else ""))
    if damages and options.repair:
        print("Run the same commands again: they make what is missing, and serve the rest.")
    elif damages:
        print(
            "`diffadapt cache verify --repair` removes what is damaged, so that the next run makes it again."
        )
    if unread:
        print("What could not be read stays, with all that belongs to it: give the same command again.")
    return int(bool(unread or (damages and not options.repair)))


def _gc(root: Root, options: Gc) -> int:
    keep: set[str] = set()
    for run in folders(root):
        kind = "sweep" if isinstance(run, Sweep) else "run"
        if state_of(run.status()) == "running":
            raise StoreError(f"The {kind} {run.name} is in progress: run gc when it has finished.")
        keep |= _referred(run)
    gone = root.store.collect_garbage(
        keep, older_than=options.older_than_hours * 3600, dry_run=options.dry_run
    )
    gone += [(path, 0) for path in leftovers(root, options.dry_run)]
    gone += clear_scratch(options.dry_run)
    gone += LocalCache().collect(options.older_than_hours * 3600, options.dry_run)
    verb = "would free" if options.dry_run else "freed"
    for path, _ in gone[:20]:
        print(path)
    if len(gone) > 20:
        print(f"... and {len(gone) - 20} more")
    print(f"{verb} {size(sum(b for _, b in gone))} in {len(gone)} files")
    if not options.dry_run and (merged := ledger.merge(root.ledger)):
        print(f"{merged} files of the ledger are one now")
    return 0


def _referred(run: Run) -> set[str]:
    """Store names that a run, sweep or trial refers to. StoreError when that cannot be known."""
    try:
        keep = set(run.planned())
    except (ValueError, TypeError):
        raise StoreError(
            f"planned.json of {run.name} is damaged, so that what it refers to is not known: run its recipe"
            " or sweep again to rewrite it, or delete its folder."
        ) from None
    if run.has("manifest.json"):
        keep |= {path for node in run.manifest()["nodes"].values() for *_, path in node["shards"] if path}
    return keep


def _identity(root: Root, name: str) -> dict[str, Any]:
    entries = {e["path"]: e for e in root.store.entries()}
    matches = [p for p in entries if p == name.rstrip("/")] or [
        p for p in entries if p.startswith(name) or posixpath.basename(p).startswith(name)
    ]
    if len(matches) == 1:
        return read_family(root.store, matches[0])
    if len(matches) > 1:
        raise StoreError(f"{name!r} fits several entries: {', '.join(matches[:4])}; give more of the name.")
    runs = [n for n in root.names() if n.startswith(name)]
    sweep, _, trial = name.rstrip("/").rpartition("/")
    if sweep and not runs and [n for n in sweeps(root) if n == sweep]:
        runs = [t for t in trials(Sweep(root, sweep)) if t.startswith(trial)]
        if len(runs) > 1:
            raise StoreError(
                f"{trial!r} fits several trials of {sweep}: {', '.join(runs[:4])}; give more of the name."
            )
    if len(runs) == 1:
        manifest = (Sweep(root, sweep).trial(runs[0]) if sweep else Run(root, runs[0])).manifest()
        known = {
            n: {"identity": v["identity"], "revisions": v["revisions"]} for n, v in manifest["nodes"].items()
        }
        return {"config": manifest["config"], "nodes": known}
    raise StoreError(
        f"The store has no entry {name!r}.{suggest(name, [*entries, *root.names()])} `diffadapt cache ls`"
        " lists them."
    )


def differences(a: Any, b: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """Dotted names at which two JSON values differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        rows = []
        for key in sorted({*a, *b}):
            rows += differences(
                a.get(key, "(absent)"), b.get(key, "(absent)"), f"{prefix}.{key}" if prefix else key
            )
        return rows
    return [] if a == b else [(prefix, _short(a), _short(b))]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = redact(text)
    return text if len(text) <= 120 else text[:117] + "..."


def size(count: float) -> str:
    """Bytes for people: '1.2 MB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
