"""The page of `diffadapt ui` over a root with 2,000 runs and 100,000 images: how long each answer takes."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np

from diffadapt.core.runs import Root, Run
from diffadapt.data.image import encode_png
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size
from tests.uikit import going_on, pictured_run, pngs, progress
from tests.unit.reportkit import fake_run, fake_scores

TARGET = 1.0
"""Seconds within which every answer is to come, the first one included."""
STAGES = 25
EACH = 50


@dataclass(frozen=True)
class Place:
    """``large``: a run with all the images; ``photos``: one with images of 512 x 512."""

    folder: str
    runs: int
    images: int
    large: str = "large-0123abcd"
    photos: str = "photos-0123abcd"
    live: str = "live-0123abcd"
    run: str = "quickstart-00000007"


def build(place: Place) -> None:
    """Run folders with scores of 13 methods on 15 corruptions and 25 stages, and the shards of three runs."""
    root = Root(place.folder)
    root.store.prepare()
    nodes = {f"stage_{i}": progress(30, 30) for i in range(STAGES)}
    for i in range(place.runs - 3):
        name = f"quickstart-{i:08x}"
        if i % 100 == 7:
            fake_run(place.folder, name, scores=fake_scores(name, seed=i))
        elif i == 8:
            fake_run(place.folder, name)
        else:  # the files of the first, under another name
            source = Path(place.folder, "runs", "quickstart-00000008")
            target = Path(place.folder, "runs", name)
            if not source.exists():
                fake_run(place.folder, "quickstart-00000008")
            target.mkdir(exist_ok=True)
            for file in ("manifest.json", "scores.parquet", "execution.json"):
                (target / file).write_bytes((source / file).read_bytes())
        Run(root, name).write_status("finished" if i % 10 else "failed", nodes, started=time.time())
    draw = np.random.default_rng(0)
    large = [encode_png(draw.integers(0, 255, (512, 512, 3), np.uint8)) for _ in range(10)]
    pictured_run(Root(place.folder), place.photos, 2, EACH, large)
    going_on(root, place.live, 40, 20, EACH, large)
    pictured_run(root, place.large, place.images // EACH, EACH, pngs())


def page(size: Size) -> Report:
    """``diffadapt ui`` in a process of its own; each address once when it is new, then five times."""
    small = size.name == "tiny"
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, 20 if small else 2000, 500 if small else 100_000)
        start = time.perf_counter()
        build(place)
        built = time.perf_counter() - start
        words = [sys.executable, "-m", "diffadapt.cli", "ui", "--root", folder, "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            start = time.perf_counter()
            lines = [process.stdout.readline() for _ in range(3)]
            base, began = lines[1].split()[1], time.perf_counter() - start
            _, first = _get(base, "/api/runs")
            while not json.loads(_get(base, "/api/root")[1])["whole"]:
                time.sleep(0.05)
            whole, known = time.perf_counter() - start - began, json.loads(first)["all"]
            metrics = [_metric(name, *_timed(base, path), small) for name, path in _paths(place)]
            with open(f"/proc/{process.pid}/status") as status:
                memory = next(int(x.split()[1]) / 1024 for x in status if x.startswith("VmHWM"))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    worst = max(metrics, key=lambda m: m.value)
    return Report(
        "page: seconds to an answer of `diffadapt ui`, the slowest of six",
        [
            *metrics,
            Metric(
                "page: the slowest answer of all",
                worst.value,
                "s",
                None if small else TARGET,
                "lower",
                worst.name,
            ),
            Metric("page: from the command to its first answer", began, "s"),
            Metric("page: from there until every run is listed", whole, "s", note=f"{known} were at first"),
            Metric("page: memory at its highest", memory, "MiB"),
        ],
        [
            f"{place.runs} runs, {place.images} images of 16 x 16, {2 * EACH} of 512 x 512; made in"
            f" {built:.0f} s"
        ],
    )


def _paths(place: Place) -> list[tuple[str, str | Callable[[str], str]]]:
    def at(path: str, **query: object) -> str:
        return f"{path}?{urlencode(query)}"

    def image(run: str, small: str) -> Callable[[str], str]:
        def address(base: str) -> str:
            found = json.loads(_get(base, at("/api/pictures", run=run, stage="synth", order="newest"))[1])
            first = found["pictures"][len(found["pictures"]) // 2]
            return at("/image", run=run, stage="synth", shard=first["shard"], row=first["row"], small=small)

        return address

    gallery = {"run": place.large, "stage": "synth"}
    return [
        ("runs", at("/api/runs")),
        ("runs, searched", at("/api/runs", q="00007")),
        ("runs, 1,000 by state", at("/api/runs", sort="state", limit=1000)),
        ("a run", at("/api/run", run=place.run)),
        ("its scores and charts", at("/api/scores", run=place.run)),
        ("a run of all the images", at("/api/run", run=place.large)),
        ("its galleries", at("/api/galleries", run=place.large)),
        ("pictures, a sample", at("/api/pictures", **gallery)),
        ("pictures, newest first", at("/api/pictures", **gallery, order="newest")),
        ("pictures of a class", at("/api/pictures", **gallery, **{"class": 7})),
        ("pictures left out", at("/api/pictures", **gallery, only="out")),
        ("pictures, a key that is nowhere", at("/api/pictures", **gallery, q="nowhere")),
        ("an image", image(place.large, "")),
        ("an image of 512 x 512", image(place.photos, "1")),
        (
            "pictures of a run that goes on",
            at("/api/pictures", run=place.live, stage="synth", order="newest"),
        ),
        ("what a run that goes on has set apart", at("/api/quarantine", run=place.live)),
        ("quarantine", at("/api/quarantine", run=place.large)),
        ("prompts", at("/api/prompts", run=place.large)),
        ("settings", at("/api/settings", run=place.large)),
        ("logs", at("/api/logs", run=place.large)),
        ("two runs side by side", at("/api/compare", run=place.run) + f"&run={place.large}"),
        ("the page itself", "/"),
    ]


def _get(base: str, path: str) -> tuple[float, bytes]:
    parts = urlsplit(base)
    connection = HTTPConnection(str(parts.hostname), parts.port or 80, timeout=60)
    try:
        start = time.perf_counter()
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read()
        taken = time.perf_counter() - start
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {body[:200]!r}")
        return taken, body
    finally:
        connection.close()


def _timed(base: str, path: str | Callable[[str], str]) -> tuple[float, list[float]]:
    """(the first time, the others)."""
    address = path if isinstance(path, str) else path(base)
    first, _ = _get(base, address)
    others = []
    for _ in range(5):
        time.sleep(0.4)  # as a page that asks every now and then: what is kept for a moment grows old
        others.append(_get(base, address)[0])
    return first, others


def _metric(name: str, first: float, others: list[float], small: bool) -> Metric:
    note = f"first {first:.3f}, then {statistics.median(others):.3f}"
    return Metric(f"page: {name}", max(first, *others), "s", None if small else TARGET, "lower", note)
