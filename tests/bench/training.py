"""Fine-tuning in every precision: images a second of one device that is fed from its own memory, and what the
precision costs in accuracy."""

from __future__ import annotations

import time

import numpy as np
import timm
import torch
from torch import nn

from diffadapt.data.config import DataConfig
from diffadapt.data.source import open_source
from diffadapt.models.cifar_resnet import DEPTHS
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun
from tests.bench.measure import synchronize
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size

GATE = 1.0
"""Points of accuracy on handwritten digits that a precision may cost."""
PLAIN = "fp32, numbers fetched every step"


def training(size: Size, device: torch.device) -> Report:
    """ResNet-50 at 224 pixels on CUDA at the published size, else the smallest of ours at 32; then digits."""
    large = size.name == "published"
    batch, side, steps = (128, 224, 40) if large else (8, 32, 4 if size.name == "tiny" else 20)
    precisions = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    rates = {
        name: _rate(precision, every, large, batch, side, steps, device)
        for name, precision, every in ((PLAIN, "fp32", 1), *((p, p, None) for p in precisions))
    }
    metrics = [Metric(f"training: {name}", rate, "images/s") for name, rate in rates.items()]
    metrics += [
        Metric(f"training: gain of {p} over fp32 fetched every step", rates[p] / rates[PLAIN], "x")
        for p in precisions
    ]
    found = {p: _digits(p, 12 if size.name == "tiny" else 150, device) for p in precisions}
    metrics += [Metric("training: top-1 on digits, fp32", found["fp32"], "%")] + [
        Metric(
            f"training: top-1 on digits, {p} less fp32",
            found[p] - found["fp32"],
            "points",
            -GATE if size.name != "tiny" else None,
        )
        for p in precisions[1:]
    ]
    return Report(
        "Fine-tuning",
        metrics,
        [
            f"{'ResNet-50' if large else f'cifar_resnet{DEPTHS[0]}'}, {side} x {side} pixels, batch {batch},"
            f" {steps} steps timed after as many, images already on the device, SGD"
        ],
    )


def _rate(
    precision: str, every: int | None, large: bool, batch: int, side: int, steps: int, device: torch.device
) -> float:
    torch.manual_seed(0)
    net = timm.create_model("resnet50" if large else f"cifar_resnet{DEPTHS[0]}", num_classes=10).to(device)
    x = torch.randn(batch, 3, side, side, device=device)
    y = torch.arange(batch, device=device) % 10
    started = 0.0

    def before_step(step: int) -> None:
        nonlocal started
        if step == steps:  # what is chosen, compiled and allocated is there by now
            synchronize(device)
            started = time.perf_counter()

    _fit(net, lambda step: (x, y), 2 * steps, precision, device, every, before_step)
    synchronize(device)
    return batch * steps / max(time.perf_counter() - started, 1e-9)


def _digits(precision: str, steps: int, device: torch.device) -> float:
    """Percent of the test digits that a small network gets right after ``steps`` steps."""
    sets = {}
    for split in ("train", "test"):
        source = open_source(DataConfig(path="embedded:digits", split=split, image_size=16, channels=1))
        items = source.items[:600]
        arrays = np.stack([source.image(i.key, 1, 16).reshape(16, 16, 1) for i in items])
        images = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
        sets[split] = images.to(device), torch.tensor([i.label for i in items], device=device)
    torch.manual_seed(0)
    net = timm.create_model(f"cifar_resnet{DEPTHS[0]}", num_classes=10, in_chans=1).to(device)
    x, y = sets["train"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(device)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = order[(torch.arange(64, device=device) + 64 * step) % len(x)]
        return x[rows], y[rows]

    _fit(net, batch, steps, precision, device)
    x, y = sets["test"]
    with torch.no_grad():
        return 100.0 * float((net.eval()(x).argmax(1) == y).float().mean())


def _fit(net: nn.Module, batch, steps: int, precision: str, device: torch.device, every=None, before=None):
    def loss_fn(module, batch, step):
        return {"loss": nn.functional.cross_entropy(module(batch[0]).float(), batch[1])}

    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    how = Optimisation(
        optimizer, lambda s: 0.02, steps, precision=precision, fetch_every=every, before_step=before
    )
    run_loop(net, loss_fn, lambda step, micro: batch(step), how, TrainingRun(LocalReporter(device)))
