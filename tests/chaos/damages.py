"""Files that are damaged, of every kind that finished and interrupted runs leave; then the same command."""

from __future__ import annotations

import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.kills import Reference, undisturbed
from tests.chaos.outcome import Outcome
from tests.chaos.places import SYSTEMS, TOY, Ended, Machine, Place, System, differences, left_behind

HOWS = ("zeroed", "cut", "one bit flipped")
PASSED_OVER = ("status.json", "ledger/", ".leases/", ".checkpoints/", "tensorboard/")
"""Files that hold no result, of which `cache verify` says nothing: signs of life, measured seconds, logs, and
checkpoints, which say themselves whether they are whole."""


@dataclass(frozen=True)
class Ground:
    """What is damaged: the files of a place before, those of an undisturbed run after the same command, and
    the machine's own copies (relative to its cache)."""

    name: str
    system: System
    words: tuple[str, ...]
    before: Mapping[str, bytes]
    wanted: Mapping[str, bytes]
    copies: Mapping[str, bytes]

    def kinds(self) -> dict[str, list[str]]:
        """Kind of file -> its names; those of the machine's copies begin with 'cache:'."""
        result: dict[str, list[str]] = defaultdict(list)
        for name in self.before:
            result[kind(name)].append(name)
        for name in self.copies:
            result["copy on this machine" if name.count("/") > 1 else "list of a copy"].append(
                f"cache:{name}"
            )
        return result


def kind(name: str) -> str:
    """What a stored file is, without what differs from file to file of its kind."""
    parts = name.split("/")
    short = parts[-1]
    if ".leases" in parts:
        return "lease"
    if ".checkpoints" in parts:
        return "checkpoint"
    if "tensorboard" in parts:
        return "TensorBoard's file"
    if parts[0] == "ledger":
        return "ledger"
    if parts[0] == "store" and len(parts) > 2:
        if short in ("family.json", "_SUCCESS", "metrics.json"):
            return short if short == "family.json" else f"fit: {short}"
        if short.endswith(".parquet"):
            return "shard"
        return "fit: weights" if short.endswith((".bin", ".safetensors")) else "fit: another file"
    if "trials" in parts:
        return f"trial: {short}"
    return f"{parts[0]}: {'figure' if 'figures' in parts else short}"


def damaged(data: bytes, how: str, rng: random.Random) -> bytes:
    """``data`` (at least one byte) as a failing disk leaves it."""
    if how == "zeroed":
        return bytes(len(data))
    if how == "cut":
        return data[: rng.randrange(len(data))]
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def needing(files: Mapping[str, bytes], name: str) -> list[str]:
    """Stored files of the nodes that stand on the one of which ``name`` is a part, and the run folders'
    files: without them the same command must read ``name``."""
    manifests = [json.loads(d) for n, d in files.items() if n.endswith("/manifest.json")]
    folders: set[str] = set()
    for manifest in manifests:
        nodes = manifest["nodes"]
        below = {
            n
            for n, v in nodes.items()
            if any(name.startswith(f"store/{_part(s[3])}") for s in v["shards"] if s[3])
        }
        grown = True
        while grown:
            more = {n for n, v in nodes.items() if below & set(v["inputs"])} - below
            grown = bool(more)
            below |= more
            folders |= {f"store/{s[3]}" for n in more for s in nodes[n]["shards"] if s[3]}
    gone = [n for n in files if any(n == f or n.startswith(f + "/") for f in folders)]
    return [*gone, *(n for n in files if n.startswith(("runs/", "sweeps/")))] if gone else []


def _part(path: str) -> str:
    """The folder of a shard's family, or of a fit."""
    return path.rpartition("/")[0] + "/" if path.endswith(".parquet") else path + "/"


def commands(machine: Machine, wanted: Collection[str]) -> dict[str, tuple[System, tuple[str, ...]]]:
    """What is run and then damaged, of the systems in ``wanted``."""
    broken = machine.base / "broken"
    broken.write_text("n/0/s001-2")
    with_failures = (*TOY, "--numbers.broken", str(broken))
    known = {n: (SYSTEMS[n], SYSTEMS[n].words) for n in ("sweep", "s3", "local, training")}
    return {n: v for n, v in {"local": (SYSTEMS["local"], with_failures), **known}.items() if n in wanted}


def grounds(machine: Machine, wanted: Collection[str]) -> list[Ground]:
    """What there is to damage, of the systems in ``wanted``."""
    result = []
    for name, (system, words) in commands(machine, wanted).items():
        whole = undisturbed(machine, system, words)
        result.append(Ground(name, system, words, whole.files, whole.files, whole.copies))
        if "s3" not in name and name != "sweep":
            result.append(_interrupted(machine, system, undisturbed(machine, system)))
    return result


def _interrupted(machine: Machine, system: System, whole: Reference) -> Ground:
    """A place that a kill left: with the checkpoints of a fit, where there are some, and the leases."""
    kind = "checkpoint" if "checkpoint" in whole.visits else "fit"
    place = machine.place(system)
    spec = {"kind": kind, "visit": whole.visits[kind] * 2 // 3, "mark": str(place.folder / "mark")}
    place.run(system.words, spec)
    files = {n: d for n, d in place.files().items() if ".tmp-" not in n}
    place.clear()
    return Ground(f"{system.name}, killed", system, system.words, files, whole.files, {})


def trial(machine: Machine, ground: Ground, what: str, how: str, force: bool, rng: random.Random) -> Outcome:
    """Damage one file of kind ``what``, ask `cache verify`, run the same command; where that names the
    damage, `cache verify --repair` and the command again. ``force``: what stands on the file is gone, so it
    is needed."""
    begin = time.monotonic()
    place = machine.place(ground.system, ground.before)
    cache = place.folder / "cache"
    for name, data in ground.copies.items():
        _write(cache / name, data)
    name = rng.choice(ground.kinds()[what])
    copy = name.startswith("cache:")
    good = ground.copies[name.removeprefix("cache:")] if copy else ground.before[name]
    if not good:
        place.clear()
        return Outcome("damage", ground.name, what, "spare", 0.0)
    bad = damaged(good, how, rng)
    if copy:
        _write(cache / name.removeprefix("cache:"), bad)
        for gone in [n for n in ground.before if n.startswith("store/answers/") and n.endswith(".parquet")]:
            place.remove(gone)
    else:
        place.write(name, bad)
    spare = copy or any(part in name for part in PASSED_OVER)
    unsealed = "killed" in ground.name and name.startswith("runs/") and not name.endswith("store.json")
    problem = "" if spare or unsealed else _unnamed(place.verify(), name)
    stands_on_it = needing(ground.before, name) if force and not copy else []
    for gone in stands_on_it:
        place.remove(gone)
    end, note = _go_on(place, ground, name, bad, bool(stands_on_it))
    if problem and end not in ("served", "failed"):
        end, note = "failed", problem
    if end in ("served", "failed"):
        note += f" [{name}; {how}] ({place.folder})"
    else:
        place.clear()
        if spare and end == "repaired" and not copy and "checkpoint" not in what:
            end = "spare"
    return Outcome("damage", ground.name, what, end, time.monotonic() - begin, note)


def _unnamed(told: Ended, name: str) -> str:
    """Why `cache verify` does not find the damage of ``name``; empty when it does."""
    if "Traceback" in told.text + told.error:
        return f"cache verify: {told.error.strip()[-300:]}"
    if told.status == 2 and name.rpartition("/")[2] in told.sentence:
        return ""
    short = re.sub(r"^store/", "", name)
    if name.endswith(
        ("SHA256SUMS", "_SUCCESS")
    ):  # a list of checksums may disagree with any file of its folder
        short = short.rpartition("/")[0] + "/"
    if told.status == 1 and f"damaged: {short}" in told.text:
        return ""
    return f"cache verify does not name it: {told.text.strip()[-200:]}{told.error.strip()[-200:]}"


def _go_on(place: Place, ground: Ground, name: str, bad: bytes, force: bool) -> tuple[str, str]:
    """(how, note) of the same command on the damaged place."""
    ended = place.run(ground.words)
    if ended.status == 0:
        other = differences(place.files(), ground.wanted)
        if not other:
            return _clean(place, name, "repaired")
        if other != [name] or force or place.files().get(name) != bad:
            return "served", f"status 0, other content: {other[:5]}"
        how = "unread"
    elif ended.sentence:
        if not any(part in ended.sentence for part in _names(name)):
            return "failed", f"the sentence names another thing: {ended.sentence}"
        how = "named"
    else:
        return "failed", f"status {ended.status}: {ended.error.strip()[-400:]}"
    if name.endswith("/store.json"):  # the sentence says so
        place.remove(name)
    repair = place.verify("--repair")
    if repair.status:
        return "failed", f"after {how}, cache verify --repair: {(repair.text + repair.error).strip()[-300:]}"
    again = place.run(ground.words)
    if again.status:
        return "failed", f"after {how} and --repair, status {again.status}: {again.error.strip()[-300:]}"
    found = place.files()
    other = differences(found, ground.wanted)
    # a sweep whose trials have all ended has no need of what was dropped
    idle = how == "unread" and ground.name == "sweep" and not found.keys() & set(other)
    if other and not idle:
        return "served", f"after {how} and --repair, other content: {other[:5]}"
    return _clean(place, name, how)


def _names(name: str) -> list[str]:
    """The file, or the list of checksums of its folder."""
    short = name.rpartition("/")[2]
    return [short, "_SUCCESS"] if name.startswith("store/") else [short, "SHA256SUMS"]


def _clean(place: Place, name: str, how: str) -> tuple[str, str]:
    # a damaged lease may be a living one's of another machine: `cache gc` takes it after an hour of silence
    if left := [n for n in left_behind(place, place.files()) if n != name]:
        return "failed", f"after {how}, left behind: {left[:5]}"
    whole = place.verify()
    return (
        (how, "")
        if whole.status == 0
        else ("failed", f"after {how}, cache verify: {whole.text[-300:]}{whole.error[-300:]}")
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_bytes(data)
