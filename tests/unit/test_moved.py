"""Files of one's own that import modules under the names of before the rooms go on working."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from diffadapt.core.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
OLD = {
    "align.config": "AlignConfig GDAConfig diffpure",
    "synth.config": "SynthConfig LlmConfig PromptConfig TextToImageConfig FilterConfig",
    "systems.recipes": "load recipes",
    "systems.zodi_detection": "ZodiDetection",
    "systems.sda": "SDA",
    "systems.adapt_anything": "AdaptAnything",
    "systems.zodi": "Zodi",
    "systems.benchmark": "SYNTHETIC",
    "transfer.config": "TransferConfig QualityConfig",
    "train.distributed": "gather",
    "train.progress": "Pass Progress",
    "train.segmentation_config": "SegmentTraining",
    "train.detection_config": "DetectionTraining",
    "methods.uda.base": "PairBatch UdaMethod",
    "stages.predict": "Predict",
    "stages.fit_uda": "FitUda",
    "stages.transfer": "TransferScenes",
}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_the_old_name_has_all_that_the_new_ones_have(old: str) -> None:
    sys.modules.pop(f"diffadapt.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"diffadapt.{old} is now diffadapt."):
        module = importlib.import_module(f"diffadapt.{old}")
    for new in MOVED[old].split():
        there = importlib.import_module(f"diffadapt.{new}")
        own = [k for k, v in vars(there).items() if getattr(v, "__module__", "") == there.__name__]
        assert own and all(getattr(module, k) is getattr(there, k) for k in own)


@pytest.mark.parametrize("module", sorted(OLD))
def test_what_files_of_before_import_is_there(module: str) -> None:
    code = f"from diffadapt.{module} import {', '.join(OLD[module].split())}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_other_names_are_not_invented() -> None:
    for name in ("diffadapt.align.nothing", "diffadapt.nothing", "diffadapt.stages.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
