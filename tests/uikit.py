"""Roots that the page is tested and measured with: real shards, fits and run folders, with invented
numbers."""

from __future__ import annotations

import json
import posixpath
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffadapt.core.artifact import PROMPT_SCHEMA, Failure, Rows, image_table
from diffadapt.core.runs import PLANNED, STAGES, Root, Run
from diffadapt.core.sealed import Sealed
from diffadapt.prompts.text import prompt_key
from tests.unit.reportkit import fake_manifest, fake_run, fake_scores
from tests.unit.sweepresults import Choice, Space, fill

PICTURED, OTHER, TOYS = "pictured-0123abcd", "quickstart-89abcdef", "toys-0a1b2c3d"
CLASSES = tuple("0123456789")
FAMILY = "0a1b2c3d4e5f"
SYNTH, PROMPTS, FILTER = f"synth/toys-{FAMILY}", f"prompts/bank-{FAMILY}", f"filter/filter-{FAMILY}"
BROKEN = "its prompt was empty: <b>no</b> token=abcdef123456"


def pngs() -> list[bytes]:
    """A hundred digits, encoded."""
    from diffadapt.data.embedded import digits
    from diffadapt.data.image import encode_png

    _, images, _ = digits("test")
    return [encode_png(image) for image in images[:100]]


def furnished(folder: Path) -> Root:
    """A root with a run that has everything (PICTURED), another (OTHER) and a sweep (TOYS)."""
    root = Root(str(folder))
    root.store.prepare()
    pictured_run(root, PICTURED)
    fake_run(folder, OTHER, scores=fake_scores(OTHER, seed=1, shift=2.0))
    space = Space({"synth.guidance": Choice(1.0, 1.5, 2.0)})
    fill(folder, space, lambda v, r: (v["synth.guidance"], 80.0 + v["synth.guidance"]), name=TOYS)
    return root


def key_of(label: int, i: int) -> str:
    return f"synthetic/0/c{label:04d}/i{i:06d}"


def pictures(
    root: Root, shards: int, each: int, images: Sequence[bytes], only: int | None = None
) -> list[str]:
    """Shards of ``each`` images, classes in turn; returns their names. ``only``: how many of them are
    committed. The first one has an item that could not be made."""
    paths = []
    for s in range(shards):
        path = f"{SYNTH}/i{s * each:06d}-{(s + 1) * each:06d}-{s:012x}.parquet"
        paths.append(path)
        if only is not None and s >= only:
            continue
        numbers = range(s * each, (s + 1) * each)
        labels = [n % len(CLASSES) for n in numbers]
        table = image_table(
            [key_of(c, n) for c, n in zip(labels, numbers, strict=True)],
            labels, [images[n % len(images)] for n in numbers], [n + 1 for n in numbers],
        )  # fmt: skip
        failures = [Failure("synthetic/0/c0000/i999999", BROKEN)] if s == 0 else []
        root.store.commit(path, Rows(table, failures), {"kind": "synth"})
    return paths


def prompts(root: Root, each: int = 3) -> str:
    path = f"{PROMPTS}/p000000-{FAMILY}.parquet"
    rows = [
        {"key": prompt_key(c, i), "label": c, "index": i, "category": name,
         "prompt": f"a <i>drawing</i> of a {name}, number {i}", "source": "bank"}
        for c, name in enumerate(CLASSES) for i in range(each)
    ]  # fmt: skip
    root.store.commit(path, Rows(pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA)), {"kind": "prompts"})
    return path


def judged(root: Root, count: int) -> str:
    """A filter that leaves out every seventh image as blank, and every eleventh as CLIP does not see it."""
    rows = []
    for n in range(count):
        reason = "blank" if n % 7 == 3 else "clip" if n % 11 == 5 else ""
        rows.append({"key": key_of(n % len(CLASSES), n), "label": n % len(CLASSES), "kept": not reason,
                     "reason": reason, "clip_probability": 0.5})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.Table.from_pylist(rows), Path(folder) / "kept.parquet")
        (Path(folder) / "metrics.json").write_text(json.dumps({"images": count}))
        Sealed(root.store, FILTER).commit(f"{FAMILY}0000", folder)
    return FILTER


def node(kind: str, inputs: Sequence[str], shards: Sequence[Sequence[Any]], quarantined=()) -> dict[str, Any]:
    return {
        "kind": kind, "version": 1, "identity": {}, "revisions": {}, "inputs": list(inputs), "family": FAMILY,
        "shards": [list(s) for s in shards], "quarantined": list(quarantined),
    }  # fmt: skip


def progress(shards: int, done: int, **more: Any) -> dict[str, Any]:
    return {
        "shards": shards, "done": done, "hits": 0, "failed": 0, "items": shards * 5, "quarantined": 0,
        "step": 0, "steps": 0, "note": "", "images_per_second": 12.5, "seconds_left": None, **more,
    }  # fmt: skip


def pictured_run(
    root: Root, name: str, shards: int = 6, each: int = 5, images: Sequence[bytes] | None = None
) -> Run:
    """A finished run with prompts, pictures, a filter, scores and an item in quarantine."""
    paths = pictures(root, shards, each, images or pngs())
    nodes = {
        "prompts": node("prompts", [], [["p", "0" * 16, 30, prompts(root)]]),
        "synth": node("synth", ["prompts"], [[f"i{i}", f"{i:016x}", each, p] for i, p in enumerate(paths)],
                      [["synthetic/0/c0000/i999999", BROKEN]]),
        "filter": node("filter", ["synth"], [["all", "f" * 16, shards * each, judged(root, shards * each)]]),
        "clean": node("images", [], [["a", "1" * 16, 5, None]]),
    }  # fmt: skip
    run = fake_run(root.location, name, manifest=fake_manifest(nodes=nodes, outputs={}))
    run.write_status("finished", {
        "prompts": progress(1, 1), "synth": progress(shards, shards, quarantined=1), "filter": progress(1, 1),
    }, started=time.time() - 100)  # fmt: skip
    return run


def going_on(
    root: Root, name: str, shards: int, done: int, each: int = 5, images: Sequence[bytes] = ()
) -> Run:
    """A run of this process of which ``done`` shards are committed; another call goes on with it."""
    paths = pictures(root, shards, each, images or pngs(), only=done)
    run = Run(root, name)
    if not run.has(STAGES):
        stages = {
            "synth": {"kind": "synth", "inputs": [], "folder": SYNTH, "fit": False},
            "train": {"kind": "classifier", "inputs": ["synth"], "fit": True,
                      "folder": f"classifier/c-{FAMILY}"},
        }  # fmt: skip
        run.write(STAGES, json.dumps({"class_names": list(CLASSES), "stages": stages}).encode())
        run.write(PLANNED, json.dumps(paths).encode())
    import os

    nodes = {
        "synth": progress(shards, done, quarantined=1, seconds_left=65.0 if done < shards else None),
        "train": progress(1, 0, step=20 if done == shards else 0, steps=80, note="loss 0.5"),
    }
    run.write_status("running", nodes, pid=os.getpid(), host=os.uname().nodename, started=time.time() - 30)
    return run


@contextmanager
def opened(location: str, **guard: Any) -> Iterator[str]:
    """The page over a root on a free port, served from a thread; gives its address."""
    import asyncio
    import threading

    from aiohttp import web

    from diffadapt.ui.answers import Answers
    from diffadapt.ui.guard import Guard
    from diffadapt.ui.server import application, listen

    listener = listen("127.0.0.1", 0)
    loop, ready, runners = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        runner = web.AppRunner(application(Answers(location), Guard(**guard)), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        runners.append(runner)
        ready.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def url(base: str, path: str, **query: Any) -> str:
    from urllib.parse import urlencode

    return f"{base}{posixpath.join('/', path)}?{urlencode(query, doseq=True)}"
