"""Two examples of platform/README.md are taken from the page and run as they stand: each is one file,
found in a folder of one's own."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from corekit import PlainRunner, receipts_of
from PIL import Image

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.schedule import next_wave
from diffadapt.core.store import Store
from diffadapt.diffusion.generators.base import GENERATORS, generator_of
from diffadapt.diffusion.generators.config import SynthConfig, TextToImageConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.stages.prompts import Prompts
from diffadapt.stages.synthesize import Synthesize
from diffadapt.stages.text_to_image import TextToImage
from tests.unit.readmekit import blocks

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("dog", "cat", "red car")


def example(name: str, folder: Path) -> None:
    """Write the README's file ``name`` into ``folder``."""
    (folder / name).write_text(blocks()[name])


ALIGNER = """
import json, torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from diffadapt.core.config import field_types, override
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.lowpass import LowPass
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.projector import Projector
from diffadapt.models.importers.adm import adm_from_original, read_checkpoint
from diffadapt.stages.align import Align
from diffadapt.core.ranges import check_limits
from diffadapt.systems.sda.recipe import SDA
tiny = Path("tests/golden/sda/adm_tiny_weights.safetensors")
network = UnconditionalNetwork(adm_from_original(*read_checkpoint(tiny)))
images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
config = AlignConfig(respacing=20, start=8, batch_size=4)
def far(config):
    out = Projector(network, config).project(images, [1, 2, 3]).float() / 127.5 - 1
    return float((LowPass(4)(out) - LowPass(4)(images)).square().mean())
recipe = override(SDA(), {"align.guidance": "ilvr", "align.ilvr.until": "2"})
refused = []
for bad in ({"align.guidance": "ilvrr"}, {"align.ilvr.until": -1}):
    try:
        check_limits(override(SDA(), bad))
    except RecipeError as error:
        refused.append(str(error))
align = Align(recipe.align)
other = Align(replace(recipe.align, ilvr=type(recipe.align.ilvr)()))
print(json.dumps({
    "far": [far(replace(config, guidance="none")), far(replace(config, guidance="ilvr"))],
    "old": digest(Align(AlignConfig()).identity()),
    "own": [align.identity()["config"]["ilvr"], digest(align.identity()) != digest(other.identity())],
    "refused": refused, "label": align.label(),
}))
"""


def test_an_aligner_is_one_file(tmp_path):
    example("ilvr.py", tmp_path)
    from diffadapt.core.identity import digest
    from diffadapt.diffusion.aligners.config import AlignConfig
    from diffadapt.stages.align import Align

    environment = {
        **os.environ,
        "DIFFADAPT_ALIGNERS": str(tmp_path),
        "PYTHONPATH": str(ROOT / "platform"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALIGNER], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    free, held = said["far"]
    assert held < free / 2, "the low frequencies are the input's"
    assert said["old"] == digest(Align(AlignConfig()).identity()), "other aligners' digests stay"
    assert said["own"] == [{"until": 2}, True]
    assert said["label"] == "adm-256-uncond-ilvr-50of100"
    name, number = said["refused"]
    assert "'ilvr'" in name and "align.ilvr.until is -1 but must be at least 0" in number


class Server(ThreadingHTTPServer):
    """Paints every prompt in a colour of its own and its seed; 'cat' is refused, 'red car' takes too long."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.version, self.strict = "1", True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def weights(self) -> str:
        return f"painter:http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, self.server.version.encode())

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.strict and "cat" in wanted["prompt"]:
            return self.answer(422, b"")
        if self.server.strict and "red car" in wanted["prompt"]:
            time.sleep(2.0)
        rng = np.random.default_rng([wanted["seed"], *wanted["prompt"].encode()])
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "png")
        return self.answer(200, out.getvalue())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None: ...


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, and the example's file in a folder of one's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    example("painter.py", folder)
    package = importlib.import_module(GENERATORS.package)
    monkeypatch.setattr(package, "__path__", list(package.__path__))
    monkeypatch.setenv(GENERATORS.variable, str(folder))
    importlib.invalidate_caches()
    with Server() as server:
        generator_of(server.weights)
        monkeypatch.setattr(sys.modules[f"{GENERATORS.package}.painter"], "TIMEOUT", 0.5)
        yield server
        server.shutdown()
    sys.modules.pop(f"{GENERATORS.package}.painter", None)


def pipeline(weights: str, names=NAMES) -> Pipeline:
    config = TextToImageConfig(weights=weights, images_per_class=2, images_per_shard=2, steps=2)
    prompts = Prompts(PromptConfig(source="template"), names)
    return Pipeline((Node("prompts", prompts), Node("synth", TextToImage(config, len(names)), ("prompts",))))


def test_a_generator_behind_an_api_is_one_file(server, tmp_path):
    store, p = Store(str(tmp_path / "store")), pipeline(server.weights)
    plan = p.plan(store)["synth"]
    assert plan.revisions == {"generator": "painter:1"} and "synth/painter-" in plan.shards[0].path
    runner = PlainRunner()
    receipts_of(p, store, runner)
    (shard,) = plan.shards
    rows = store.load(shard.path)
    assert [(r["key"], r["label"], r["prompt"]) for r in rows.table.to_pylist()] == [
        (f"synthetic/0/c0000/i{i:06d}", 0, "photo of a dog") for i in range(2)
    ]
    assert len({r["image"]["bytes"] for r in rows.table.to_pylist()}) == 2, "the seeds differ"
    reasons = {f.key: f.reason for f in rows.failures}
    assert len(reasons) == 4, "what is refused or takes too long is set apart"
    assert "refuses the prompt (status 422)" in reasons["synthetic/0/c0001/i000000"]
    assert "gives no answer" in reasons["synthetic/0/c0002/i000001"]


def test_its_identity_is_what_it_states_and_not_where_it_is(server, tmp_path):
    store = Store(str(tmp_path / "store"))
    first = pipeline(server.weights).plan(store)["synth"].family
    assert pipeline(server.weights + "/").plan(store)["synth"].family == first
    server.version = "2"
    assert pipeline(server.weights).plan(store)["synth"].family != first


def test_nothing_is_stored_while_it_answers_for_no_image(server, tmp_path):
    store, p = Store(str(tmp_path / "store")), pipeline(server.weights, ("red car", "old red car"))
    plans, runner = p.plan(store), PlainRunner()
    stages = {n: plan.stage for n, plan in plans.items()}
    runner.run_chains(next_wave(plans, set()).chains, stages, store, lambda receipt: None)
    last = runner.receipts[-1]
    assert last.status == "failed" and "The generator gives no answer" in last.error
    assert not store.exists(plans["synth"].shards[0].path)
    server.strict = False
    receipts_of(p, store)
    assert len(store.load(plans["synth"].shards[0].path)) == 4


def test_what_it_cannot_do_and_where_it_is_not_are_one_sentence(server, tmp_path):
    store = Store(str(tmp_path))
    stage = Synthesize(SynthConfig(weights=server.weights), 3)
    with pytest.raises(RecipeError, match="'painter' makes no images from class labels"):
        generator_of(server.weights).from_labels(stage.config, "cpu", 3)
    with pytest.raises(WeightsError, match="does not say its revision"):
        pipeline("painter:http://127.0.0.1:9").plan(store)
    with pytest.raises(WeightsError, match="No weights at 'paintr:x'"):
        pipeline("paintr:x").plan(store)
