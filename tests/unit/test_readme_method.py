"""The example method of platform/README.md is taken from the page, found in a folder of one's own, and
trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.unit.readmekit import blocks

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
import numpy as np, torch
from torch import nn
torch.set_num_threads(1)
from diffadapt.methods.uda.config import METHODS, UdaConfig
from diffadapt.core.ranges import check_limits
from diffadapt.tasks.classification.adaptation import fit_uda
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.views import FeatureViews
rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 8)).astype(np.float32) * 2
mix = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32) * np.linspace(0.3, 3, 8, dtype=np.float32)
def views(shift, labelled):
    y = np.arange(240) % 3
    x = (centres[y] + rng.normal(size=(240, 8))).astype(np.float32)
    x = x @ mix if shift else x
    none = np.zeros((240, 0, 8), np.float32)
    return FeatureViews(y if labelled else np.full(240, -1), [str(i) for i in range(240)], x, none, none)
def distance(trade_off):
    config = UdaConfig(method="coral", epochs=2, steps_per_epoch=60,
        coral=METHODS["coral"](trade_off=trade_off, bottleneck=6))
    check_limits(config)
    torch.manual_seed(0)
    seen = {}
    reporter = LocalReporter(on_report=lambda step, total, scalars: seen.update({step: scalars}))
    fit_uda(views(False, True), views(True, False), nn.Identity(), 8, 3, config, TrainingRun(reporter))
    return np.mean([s["coral"] for step, s in seen.items() if step > 100])
print(json.dumps([sorted(METHODS), distance(0.0), distance(30.0)]))
"""


def test_a_method_is_one_file(tmp_path):
    code = blocks()["uda/coral.py"]
    assert code.count("\n") < 150
    file = tmp_path / "uda" / "coral.py"
    file.parent.mkdir()
    file.write_text(code)
    environment = {
        **os.environ,
        "DIFFADAPT_METHODS": str(tmp_path),
        "PYTHONPATH": str(ROOT / "platform"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    methods, without, with_coral = json.loads(done.stdout.splitlines()[-1])
    assert "coral" in methods and "dann" in methods
    assert with_coral < without / 2
