"""Places in which commands are started, what they hold, and what of it must be equal to the last byte."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq

from tests.chaos.killing import VARIABLE
from tests.fault.processes import TAG, tagged

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PATIENCE = 900.0
"""Seconds after which a command counts as hanging."""
TOY = ("--toy", "run", "toy")
SWEEP = ("--toy", "sweep", "--recipe", "toy", "--axis", "answers.spread=0.5,1.0")
SMALL = ("run", "small")
RAY = ("run", "small", "--execution.runner", "ray", "--execution.actors", "2")
POOL = ("run", "small", "--execution.runner", "local", "--execution.actors", "2")


@dataclass(frozen=True)
class System:
    """A kind of run: the words of its command, and what it stands on."""

    name: str
    words: tuple[str, ...]
    s3: bool = False
    ray: bool = False
    """It works in several processes: Ray's, or those of the local runner."""

    @property
    def heavy(self) -> bool:
        """It trains with torch."""
        return self.words[0] != "--toy"


SYSTEMS = {
    s.name: s
    for s in (
        System("local", TOY),
        System("sweep", SWEEP),
        System("s3", TOY, s3=True),
        System("s3 sweep", SWEEP, s3=True),
        System("local, training", SMALL),
        System("ray, training", RAY, ray=True),
        System("local processes, training", POOL, ray=True),
    )
}


@dataclass
class Ended:
    """A command that has ended: its exit status (negative: the signal), what it wrote, how long it took."""

    status: int
    text: str
    error: str
    seconds: float = 0.0

    @property
    def sentence(self) -> str:
        """The one sentence of a command that failed by something that its user can mend; empty otherwise."""
        last = self.error.strip().splitlines()[-1:] or [""]
        return last[0] if self.status == 2 and "Traceback" not in self.text + self.error else ""


@dataclass
class Place:
    """One root with caches and temporary files of its own."""

    folder: Path
    root: str
    environment: Mapping[str, str]
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of all that is started here."""

    def start(
        self, words: tuple[str, ...], kill: Mapping[str, Any] | None = None, ray: bool = False
    ) -> Started:
        """Start a command (of ``tests.chaos.driver``) on this root, armed with ``kill``."""
        environment = {**self.environment, TAG: self.tag}
        path = [str(ROOT / "platform"), str(ROOT)]
        if kill is not None:
            environment[VARIABLE] = json.dumps({**kill, "s3": self.root.startswith("s3://")})
            if ray:  # Ray's workers are Pythons of their own
                environment["DIFFADAPT_TEST_RAY"] = "1"
                path.insert(0, str(HERE / "site"))
        environment["PYTHONPATH"] = os.pathsep.join(path)
        command = [sys.executable, "-m", "tests.chaos.driver", *words, "--root", self.root]
        return Started(command, self.folder, environment)

    def run(self, words: tuple[str, ...], kill: Mapping[str, Any] | None = None, ray: bool = False) -> Ended:
        with self.start(words, kill, ray) as started:
            return started.end()

    def verify(self, *more: str) -> Ended:
        return self.run(("cache", "verify", *more))

    # -- content
    def files(self) -> dict[str, bytes]:
        """Every file under the root by its relative name."""
        fs, base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        base = base.rstrip("/")
        return {p.removeprefix(base + "/"): fs.cat_file(p) for p in sorted(fs.find(base))}

    def write(self, name: str, data: bytes) -> None:
        fs, base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        target = f"{base.rstrip('/')}/{name}"
        if not self.root.startswith("s3://"):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        fs.pipe_file(target, data)

    def remove(self, name: str) -> None:
        fs, base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        fs.rm_file(f"{base.rstrip('/')}/{name}")

    def end_all(self) -> None:
        """End what killed drivers left running, as Ray's own processes do a while after their driver."""
        for pid in tagged(self.tag):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        self.end_all()
        if self.root.startswith("s3://"):
            fs, base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
            if fs.exists(base):
                fs.rm(base, recursive=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Started:
    """A command that runs, with all that it starts; nothing of it outlives the context."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]):
        self.begin, self.number = time.monotonic(), next(_numbers)
        self.out, self.err = (folder / f"{self.number}.{end}" for end in ("out", "err"))
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env=dict(environment), stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def begun(self) -> bool:
        """Wait until its imports are done; whether it still runs."""
        while self.process.poll() is None and not self.out.read_text().startswith("begun"):
            time.sleep(0.01)
        return self.process.poll() is None

    def end(self) -> Ended:
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return Ended(124, self.out.read_text(), f"it hung\n{self.err.read_text()}", PATIENCE)
        seconds = time.monotonic() - self.begin
        return Ended(self.process.returncode, _plain(self.out), _plain(self.err), seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()


_numbers = itertools.count(1)


def _plain(path: Path) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", path.read_text(errors="replace"))


class Machine:
    """Makes places. ``s3``: the endpoint of a server that speaks S3, where there is one."""

    def __init__(self, base: Path, s3: Mapping[str, str] | None = None):
        self.base, self.s3 = base, dict(s3 or {})
        self._numbers = itertools.count(1)
        self.known: dict[Any, Any] = {}
        """Undisturbed runs, by what was run."""

    def place(self, system: System, files: Mapping[str, bytes] | None = None) -> Place:
        """A new place, with ``files`` under its root."""
        number = next(self._numbers)
        folder = self.base / f"place-{number:03d}"
        (folder / "tmp").mkdir(parents=True)
        root = f"s3://chaos/{number:03d}" if system.s3 else str(folder / "root")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "DIFFADAPT_"))} | {
            **self.s3,
            "DIFFADAPT_PIPELINES": str(HERE / "recipes"),
            "DIFFADAPT_CACHE": str(folder / "cache"),
            "TMPDIR": "/tmp" if system.ray else str(folder / "tmp"),  # Ray's sockets want short names
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        place = Place(folder, root, environment)
        for name, data in (files or {}).items():
            place.write(name, data)
        return place


SPARE = (
    ".leases/",
    "ledger/",
    "status.json",
    "tensorboard/",
    "execution.json",
    "device_hours.json",
    "SHA256SUMS",
    "report.html",
)
"""Parts of names that hold hours or signs of life: they differ between two undisturbed runs."""
TIMED = ("seconds", "device_hours", "device", "made", "found")
"""Fields of a trial's result that tell of the hour."""


def stable(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What must be equal after anything: all files but those of SPARE and unfinished ones; of results, all
    but the seconds."""
    spare = (*SPARE, ".tmp-")
    return {n: _timeless(n, d) for n, d in files.items() if not any(part in n for part in spare)}


def _timeless(name: str, data: bytes) -> Any:
    short = name.rpartition("/")[2]
    try:
        if short == "sweep.parquet":
            rows = pq.read_table(io.BytesIO(data)).to_pylist()
            return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
        if short == "result.json":
            return {k: v for k, v in json.loads(data).items() if k not in TIMED}
        if short == "sweep.json":  # what it saves depends on what the store had
            return {k: v for k, v in json.loads(data).items() if k != "economy"}
        if short == "recipe.json":  # which runner it was asked for
            value = json.loads(data)
            value["config"].pop("execution")
            value["overrides"] = {
                k: v for k, v in value["overrides"].items() if not k.startswith("execution.")
            }
            return value
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass
    return data


def differences(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """Names that are missing, that are too many, or whose content differs."""
    a, b = stable(found), stable(wanted)
    return sorted(n for n in a.keys() | b.keys() if a.get(n, a) != b.get(n, b))


def left_behind(place: Place, files: Mapping[str, bytes]) -> list[str]:
    """What no finished command may leave: unfinished files, leases, checkpoints, scratch folders."""
    bad = [n for n in files if ".tmp-" in n or ".leases/" in n or ".checkpoints/" in n]
    copies = place.folder / "cache"
    bad += [str(p.relative_to(place.folder)) for p in copies.rglob("*") if ".tmp-" in p.name]
    if place.environment["TMPDIR"] != "/tmp":
        bad += [f"tmp/{p.name}" for p in (place.folder / "tmp").iterdir() if p.name.startswith("diffadapt-")]
    return bad


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 in a process of its own, with the bucket 'chaos'; gives the variables that lead to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(folder / "s3.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
    variables = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    os.environ.update(variables)
    try:
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("chaos")
        yield variables
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
