"""A metric is one file, in a folder of one's own too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = """
from diffadapt.core.metric import Metric

ERROR = Metric("error", "error rate", "labels", lambda got, true: (got != true).mean(), higher=False)
"""
CODE = (
    "from diffadapt.metrics import metric\n"
    "m = metric('error'); print(m.title, m.higher, metric('top1').title)"
)


def ask(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DIFFADAPT_METRICS": str(folder), "PYTHONPATH": str(ROOT / "platform")}
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)


def test_a_metric_of_ones_own_is_found(tmp_path):
    (tmp_path / "error_rate.py").write_text(FILE)
    assert ask(tmp_path).stdout.strip() == "error rate False top-1 accuracy"


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    assert "RecipeError: The metric file broken.py cannot be imported" in ask(tmp_path).stderr
