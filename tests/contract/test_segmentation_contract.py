"""Every method with every kind of network trains through the one loop, resumes, and predicts; and planning it
needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from diffadapt.core.artifact import Shard  # noqa: E402
from diffadapt.core.stage import WorkContext  # noqa: E402
from diffadapt.models.segmentation.build import build_segmenter  # noqa: E402
from diffadapt.models.segmentation.config import SegmenterConfig  # noqa: E402
from diffadapt.models.segmentation.folder import load_segmenter  # noqa: E402
from diffadapt.tasks.segmentation.fit import FitSegmenter  # noqa: E402
from diffadapt.tasks.segmentation.losses import METHODS, SegmentBatch, method_of, pair_losses  # noqa: E402
from diffadapt.tasks.segmentation.predict import PredictSegments  # noqa: E402
from diffadapt.train.reporter import LocalReporter  # noqa: E402
from tests.unit.segmentationkit import QUICK, TABLE, Toy, job, same, scene_rows  # noqa: E402

SIZE = (32, 64)
NETWORKS = {
    "deeplabv3plus": SegmenterConfig("deeplabv3plus", "timm:test_resnet", "none", width=8, size=SIZE),
    "refinenet": SegmenterConfig("refinenet", "timm:test_resnet", "none", width=8, size=SIZE),
    "linear": SegmenterConfig("linear", "test_vit", "none", size=SIZE),
    "frozen": SegmenterConfig("deeplabv3plus", "timm:test_resnet", "none", frozen=True, width=8, size=SIZE),
}
TRAINING = replace(QUICK, epochs=3, batch_size=2, lr=0.01, checkpoint_every=1)


def rows(method: str):
    source = {"source": scene_rows(Toy(4))}
    return (
        {**source, "transferred": scene_rows(Toy(4, inverted=True).shuffled())}
        if method_of(method).transferred
        else source
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_method_reaches_every_weight_that_is_trained(network, method):
    torch.manual_seed(0)
    net = build_segmenter(NETWORKS[network], 3)
    x = torch.randn(2, 3, *SIZE)
    losses = pair_losses(net, SegmentBatch(x, -x, torch.randint(0, 3, (2, *SIZE))), method, TRAINING)
    losses["loss"].backward()
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert trained and [name for name, p in trained.items() if p.grad is None] == [], (
        "data-parallel training waits for every gradient"
    )
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    assert any(name.startswith("backbone.") for name in trained) == (network != "frozen")


@pytest.mark.parametrize(
    ("network", "method"),
    [("refinenet", "zodi"), ("linear", "both"), ("frozen", "zodi"), ("deeplabv3plus", "transferred_only")],
)
def test_a_killed_fit_goes_on_to_the_same_bytes_and_predicts(tmp_path, network, method):
    stage = FitSegmenter(NETWORKS[network], TRAINING, TABLE, method)
    stage.fit(job(tmp_path / "whole", rows(method)))

    def kill(step, total, scalars):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.fit(job(tmp_path / "killed", rows(method), reporter=LocalReporter(on_report=kill)))
    steps = []
    stage.fit(
        job(
            tmp_path / "killed",
            rows(method),
            reporter=LocalReporter(on_report=lambda step, total, scalars: steps.append(step)),
        )
    )
    assert steps == [4, 5, 6]
    whole, again = (load_segmenter(tmp_path / name / "out")[0].state_dict() for name in ("whole", "killed"))
    assert same(whole, again)
    worker = PredictSegments(NETWORKS[network], TABLE).open(
        WorkContext("cpu", {"model": str(tmp_path / "killed/out")})
    )
    found = worker.run(Shard("all", {}), [scene_rows(Toy(3, first=9))])
    assert (
        len(found) == 3
        and found.failures == []
        and all(sum(c) == SIZE[0] * SIZE[1] for c in found.column("confusion"))
    )


def test_stages_are_planned_without_torch():
    code = (
        "import diffadapt.tasks.segmentation.fit as f, diffadapt.tasks.segmentation.predict,"
        " diffadapt.metrics.segmentation, sys; f.FitSegmenter().identity(); print([m for m in ('torch',"
        " 'torchvision', 'timm', 'ray') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "platform"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.strip() == "[]", done.stderr
