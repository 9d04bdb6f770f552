"""``python -m tests.bench.serving --root ROOT [--run RUN]``: a served run under a bounded load on
loopback, and one of its replicas killed under it. Needs the extra [serve]."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

RETRIES = 20


@dataclass
class Load:
    """What a number of requests were answered."""

    statuses: Counter = field(default_factory=Counter)
    """By HTTP status, or the client's error; requests that were sent again count each time."""
    seconds: list[float] = field(default_factory=list)
    """Of each request to its answer, retries included."""
    answers: dict[str, tuple] = field(default_factory=dict)
    """Name -> label and confidence."""
    wall: float = 0.0

    def quantile(self, q: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    def line(self) -> str:
        ms = [f"{1000 * self.quantile(q):.0f}" for q in (0.5, 0.95, 0.99)]
        return (
            f"{len(self.answers)} answers in {self.wall:.1f} s, {len(self.answers) / self.wall:.1f} images/s,"
            f" {' / '.join(ms)} ms (median, 95 %, 99 %), statuses {dict(self.statuses)}"
        )


async def load(url: str, images: Sequence[tuple[str, bytes]], clients: int, at: dict | None = None) -> Load:
    """Each of ``images`` in a request of its own, ``clients`` at a time; one that gets no answer is sent
    again. ``at``: number of answers -> what is called then."""
    found, waiting, start = Load(), iter(images), time.monotonic()

    async def client(session: aiohttp.ClientSession) -> None:
        for name, data in waiting:
            began = time.monotonic()
            for attempt in range(RETRIES):
                try:
                    async with session.post(
                        f"{url}/predict",
                        params={"name": name},
                        data=data,
                        headers={"content-type": "image/png"},
                    ) as reply:
                        found.statuses[reply.status] += 1
                        content = await reply.json(content_type=None) if reply.status == 200 else None
                except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
                    found.statuses[type(error).__name__] += 1
                    content = None
                if content is not None:
                    row = content["predictions"][0]
                    found.answers[name] = row["label"], row["confidence"]
                    break
                await asyncio.sleep(0.2 * (attempt + 1))
            found.seconds.append(time.monotonic() - began)
            if at and (do := at.pop(len(found.answers), None)):
                do()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    found.wall = time.monotonic() - start
    return found


@contextlib.contextmanager
def served(root: str, run: str, *options: str) -> Iterator[tuple[str, int]]:
    """``diffadapt serve`` in a process of its own; gives its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "diffadapt.cli",
        "serve",
        "--root",
        root,
        "--run",
        run,
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            raise RuntimeError("".join(said))
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def replicas(driver: int, name: str = "Models") -> list[int]:
    """The process ids of the replicas of ``name`` that a driver started, by the titles that Ray gives
    them."""
    from tests.bench.processes import every_process

    parents, _ = every_process()
    found, todo = [], [driver]
    while todo:
        parent = todo.pop()
        todo += (children := [p for p, q in parents.items() if q == parent])
        for pid in children:
            with contextlib.suppress(OSError):
                if f":{name}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found


def kill_one(driver: int, name: str) -> None:
    os.kill(replicas(driver, name)[0], signal.SIGKILL)


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Digits as PNG under names of their own."""
    from diffadapt.data.embedded import digits
    from diffadapt.data.image import encode_png

    _, images, _ = digits("test")
    return [(f"{i}.png", encode_png(images[i % len(images)])) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--run", default="last")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    given = parser.parse_args()
    images = pictures(given.requests)
    with served(given.root, given.run, "--replicas", str(given.replicas), *given.options) as (url, driver):
        asyncio.run(load(url, images[:32], 4))
        for clients in given.clients:
            still = asyncio.run(load(url, images[: given.requests if clients > 1 else 100], clients))
            print(f"{given.replicas} replicas, {clients} clients: {still.line()}", flush=True)
        for name in ("Models", "Entrance"):

            def kill(name: str = name) -> None:
                kill_one(driver, name)

            hurt = asyncio.run(load(url, images, given.clients[-1], {given.requests // 4: kill}))
            print(f"a replica of {name} killed: {hurt.line()}", flush=True)
            wrong = sum(
                abs(hurt.answers[n][1] - a[1]) > 1e-6 for n, a in still.answers.items() if n in hurt.answers
            )
            print(
                f"  without an answer: {len(images) - len(hurt.answers)}, other answers: {wrong}", flush=True
            )


if __name__ == "__main__":
    main()
