"""A target of Gaussian clusters with pseudo-labels of a worse model, for tests of stage 2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from diffadapt.methods.ssl.config import SslConfig
from diffadapt.train.views import FeatureViews

CLASSES, WIDTH = 4, 8


def clusters(count: int = 240, seed: int = 0, noise: float = 0.4) -> FeatureViews:
    """``count`` points around CLASSES corners of a cube; weak views jitter a little, strong ones a lot."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(7).normal(size=(CLASSES, WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True) / 1.6
    test = (centres[labels] + noise * rng.normal(size=(count, WIDTH))).astype(np.float32)
    weak = test[:, None] + 0.05 * rng.normal(size=(count, 4, WIDTH)).astype(np.float32)
    strong = test[:, None] + 0.3 * rng.normal(size=(count, 4, WIDTH)).astype(np.float32)
    return FeatureViews(labels.astype(np.int64), [f"t/0/{i:04d}" for i in range(count)], test, weak, strong)


def biased_head(views: FeatureViews, seed: int = 0, hidden: int = 0) -> nn.Sequential:
    """A head fitted to a shifted copy of the clusters: mostly right on the target, least at its border."""
    torch.manual_seed(seed)
    layers = (
        [nn.Linear(WIDTH, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)]
        if hidden
        else [nn.Linear(WIDTH, CLASSES)]
    )
    head = nn.Sequential(*layers)
    shift = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    x, y = (
        torch.from_numpy(views.cached["test"][:, 0]) + 0.6 * shift / shift.norm() * 1.6,
        torch.from_numpy(views.labels),
    )
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    return head.eval()


def accuracy(head: nn.Module, views: FeatureViews) -> float:
    """Fraction of the test views that ``head`` gets right."""
    head.eval()
    with torch.no_grad():
        return float(
            (head(torch.from_numpy(views.cached["test"][:, 0])).argmax(1).numpy() == views.labels).mean()
        )


def split(
    head: nn.Module, views: FeatureViews, fraction: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(confident, pseudo-labels, unconfident) by the top ``fraction`` of every predicted class."""
    from diffadapt.methods.ssl.config import SplitConfig
    from diffadapt.tasks.classification.split import choose

    with torch.no_grad():
        p = head(torch.from_numpy(views.cached["test"][:, 0])).softmax(1).numpy()
    predicted = p.argmax(1)
    confident = choose(predicted, p.max(1), views.keys, SplitConfig(fraction=fraction))
    return np.flatnonzero(confident), predicted[confident], np.flatnonzero(~confident)


def config(method: str, **changes):
    """A short training; further settings of the method by name."""
    own = {k: changes.pop(k) for k in list(changes) if k not in SslConfig.__dataclass_fields__}
    made = SslConfig(method=method, batch_size=24, epochs=4, steps_per_epoch=40, lr=0.05)
    made = replace(made, **changes)
    return replace(made, **{method: replace(getattr(made, method), **own)})
