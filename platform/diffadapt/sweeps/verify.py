"""Whether everything that is stored under a root is as it was written: shards, fits, runs, sweeps, trials."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diffadapt.core.errors import DamagedError, LostError, MissingError, StoreError
from diffadapt.core.files import LEFTOVER_SECONDS, is_leftover
from diffadapt.core.lease import FOLDER as LEASES
from diffadapt.core.runs import Root, Run
from diffadapt.core.sealed import SUCCESS, Sealed, family_damage
from diffadapt.core.store import Store, modified
from diffadapt.sweeps.folder import RESULT, Sweep, sweeps


@dataclass(frozen=True)
class Damage:
    """What was found of one shard, fit or run: the damaged ones of its ``files`` files that were read (none:
    it is whole), and how to remove what must be made again."""

    where: str
    names: tuple[str, ...]
    files: int
    drop: Callable[[], None]
    unread: str = ""
    """Why a file of it could not be read, which is no damage: nothing of it is removed."""


def verify(root: Root) -> Iterator[Damage]:
    """Read all of it; one value for each shard, fit, run, sweep and trial. Fits of earlier versions, which
    have no checksums, get them. StoreError when a part of the root is of another format, or does not say, or
    cannot be listed. A file whose place fails is no damage: it is told as unread, and the rest is gone on
    with.
    """
    store = root.store
    for place in (store, root.runs, root.sweeps):
        place.check()
    for entry in store.entries():
        path, names = entry["path"], [f.removeprefix(store.join(entry["path"]) + "/") for f in entry["files"]]
        if SUCCESS in names:
            yield _judged(path, lambda p=path, n=len(names): _fit(store, p, n))
            continue
        shards = [name for name in names if name.endswith(".parquet")]
        for name in shards:
            yield _judged(path, lambda p=path, n=name: _shard(store, p, n))
        rest = len(names) - len(shards)
        yield _judged(path, lambda p=path, n=rest: _files(store, p, family_damage(store, p), n))
    for run in folders(root):
        yield _judged(_place(run), lambda r=run: _run(r))


def _judged(where: str, look: Callable[[], Damage]) -> Damage:
    try:
        return look()
    except LostError:
        raise
    except StoreError as error:
        return Damage(where, (), 0, lambda: None, str(error))


def folders(root: Root) -> Iterator[Run]:
    """Every run, every sweep and every trial under a root."""
    for name in root.names():
        yield Run(root, name)
    for name in sweeps(root):
        sweep = Sweep(root, name)
        yield sweep
        for trial in trials(sweep):
            yield sweep.trial(trial)


def trials(sweep: Sweep) -> list[str]:
    """Names of the trials that a sweep's folder holds."""
    names = Store(posixpath.join(sweep.url, "trials")).list("")
    return sorted(n for n in names if not n.startswith((".", "store.json")))


def leftovers(root: Root, dry_run: bool = False) -> list[str]:
    """Remove what killed writers left anywhere under a root, and leases without a sign of life for so long as
    unfinished files may have none; returns the paths of what went, or would go."""
    gone = []
    silent = time.time() - LEFTOVER_SECONDS
    for place in (root.store, root.runs, root.sweeps):
        for name, info in place.files(LEASES).items():
            if modified(info) < silent:
                gone.append(place.join(LEASES, name))
                if not dry_run:
                    place.remove(posixpath.join(LEASES, name))
    for place in (root.store, root.runs, root.sweeps, root.ledger):
        for path, info in place.fs.find(place.path, detail=True).items() if place.local else ():
            if is_leftover(path, modified(info)):
                gone.append(path)
                if not dry_run:
                    place.remove(path.removeprefix(place.path + "/"))
    return gone


def _shard(store: Store, path: str, name: str) -> Damage:
    try:
        store.load(posixpath.join(path, name))
        bad = []
    except MissingError:  # it went this moment
        return _files(store, path, [], 0)
    except DamagedError:
        bad = [name]
    return _files(store, path, bad, 1)


def _files(store: Store, path: str, bad: list[str], files: int) -> Damage:
    def drop() -> None:
        for name in bad:
            store.remove(posixpath.join(path, name))

    return Damage(path, tuple(bad), files, drop)


def _fit(store: Store, path: str, files: int) -> Damage:
    """One damaged file makes the whole fit of no use; family.json alone is written again."""
    bad = list(Sealed(store, path).damage(thorough=True))

    def drop() -> None:
        if bad == ["family.json"]:
            store.remove(posixpath.join(path, "family.json"))
        elif bad:
            store.remove(path)

    return Damage(path, tuple(bad), files, drop)


def _run(run: Run) -> Damage:
    """A damaged trial is carried out again: without its result it is open."""
    bad = run.damage()

    def drop() -> None:
        for name in {*bad, RESULT} if bad else ():
            run.remove(name)

    try:
        files = len(run.sums())
    except LostError:
        files = 1
    return Damage(_place(run), tuple(bad), files, drop)


def _place(run: Run) -> str:
    return run.url.removeprefix(run.root.location.rstrip("/") + "/")
