"""Parity of whole trainings of stage 1: stored batches and first weights through our network, methods and
loop to the last weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import Pass, Progress
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.methods.uda.cdan import Cdan
from diffadapt.methods.uda.dann import Dann
from diffadapt.methods.uda.mcc import Mcc
from diffadapt.methods.uda.mcd import Mcd
from diffadapt.methods.uda.symnets import SymNets
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.parity.check import FLOAT_GATE, NumberFile, ParityRow, compare
from diffadapt.tasks.classification.adaptation import make_optimizer
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun

GATE = 1e-9
PRECISIONS = ((torch.float64, GATE, ""), (torch.float32, FLOAT_GATE, ", float32"))
Rows = Iterator[ParityRow]


def checks(file: NumberFile) -> Rows:
    """Rows of trajectories, of SAM's steps and of SymNets' update."""
    keys = set(file.arrays)
    for dtype, gate, suffix in PRECISIONS:
        if {"in_x_s", "in_x_t", "in_y_s", "in_clf.backbone.l.weight"} <= keys and "in_x_t_strong" not in keys:
            yield from _trajectory(file, _method(file.arrays), dtype, gate, suffix)
        if {"in_x_s", "in_x_t", "in_y_s", "in_G.l.weight", "in_F1.head.1.weight"} <= keys:
            yield from _trajectory(file, _mcd(file.arrays), dtype, gate, suffix)
        if {"in_weight", "in_bias", "in_x", "in_y", "in_rho", "in_lr"} <= keys:
            yield from _sam(file, dtype, gate, suffix)
        if {"in_net.0.weight", "in_net.2.weight", "in_x_s", "in_x_t", "in_K", "in_labels"} <= keys:
            yield from _split_update(file, dtype, gate, suffix)


def _method(a: Mapping[str, np.ndarray]) -> UdaMethod:
    width, classes = a["in_clf.head.weight"].shape[1], a["in_clf.head.weight"].shape[0]
    if "in_disc.0.weight" not in a:
        return Mcc(bottleneck=width)
    hidden, inputs = a["in_disc.0.weight"].shape
    return (
        Cdan(hidden=hidden, bottleneck=width)
        if inputs == width * classes != width
        else Dann(hidden=hidden, bottleneck=width)
    )


def _mcd(a: Mapping[str, np.ndarray]) -> UdaMethod:
    weights = {"trade_off": float(a["in_trade_off"]), "entropy": float(a["in_trade_off_entropy"])}
    return Mcd(
        lr=float(a["in_lr"]),
        agree_steps=int(a["in_num_k"]),
        hidden=a["in_F1.head.1.weight"].shape[0],
        dropout=0.0,
        **weights,
    )


NAMES = (
    ("clf.", ""),
    ("disc.6.0.", "discriminator.6."),
    ("disc.", "discriminator."),
    ("G.", "backbone."),
    ("F1.head.", "head."),
    ("F2.head.", "head2."),
    ("net.0.", "backbone.l."),
    ("net.2.", "head."),
)


def _state(a: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The stored weights and running averages under our names."""
    result = {}
    for key, value in a.items():
        for theirs, ours in NAMES:
            if key.startswith(prefix + theirs):
                result[ours + key.removeprefix(prefix + theirs)] = value
                break
    return result


class _Body(nn.Module):
    """The stored trainings' backbone."""

    def __init__(self, width: int, out: int, activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh):
        super().__init__()
        self.l, self.activation = nn.Linear(width, out), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.l(x))


def _network(
    state: Mapping[str, np.ndarray],
    classes: int,
    method: UdaMethod,
    dtype: torch.dtype,
    activation: Any = torch.tanh,
) -> AdaptationNetwork:
    out, width = state["backbone.l.weight"].shape
    net = AdaptationNetwork(_Body(width, out, activation), out, classes, method).to(dtype)
    missing, unexpected = net.load_state_dict(
        {k: torch.from_numpy(v) for k, v in state.items()}, strict=False
    )
    assert not unexpected and all(k.endswith("num_batches_tracked") for k in missing), (missing, unexpected)
    return net


def train_steps(
    net: AdaptationNetwork,
    batches: Sequence[PairBatch],
    total: int,
    per_epoch: int,
    start: int = 0,
    sharpness: float = 0.0,
) -> list[dict[str, float]]:
    """The batches through the one loop, as the steps from ``start`` on of a training of ``total`` steps; what
    each reported. ``sharpness``: SAM's radius (SDAT)."""
    passes, seen = net.method.passes_with(sharpness), list[dict[str, float]]()

    def progress(step: int, name: str = "update") -> Progress:
        return Progress(start + step, total, per_epoch, name)

    def loss_fn(module: nn.Module, batch: PairBatch, step: int, current: Pass) -> Mapping[str, torch.Tensor]:
        return module(batch, progress(step, current.name))

    run_loop(
        net,
        loss_fn,
        lambda step, micro: batches[step],
        Optimisation(
            make_optimizer(net),
            lambda step: net.method.lr_at(progress(step)),
            len(batches),
            clip_norm=net.method.clip_norm,
            passes=passes,
        ),
        TrainingRun(LocalReporter(), on_step=lambda done, scalars: seen.append(dict(scalars))),
    )
    return seen


def _trajectory(file: NumberFile, method: UdaMethod, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a = file.arrays
    before = _state(a, "in_")
    classes = len(before[max(k for k in before if k.startswith("head.") and k.endswith("bias"))])
    net = _network(before, classes, method, dtype)
    x_s, x_t = (torch.from_numpy(a[k]).to(dtype) for k in ("in_x_s", "in_x_t"))
    y_s = torch.from_numpy(a["in_y_s"])
    index = torch.arange(x_s.shape[1])
    steps = len(x_s)
    train_steps(net, [PairBatch(x_s[i], y_s[i], x_t[i], index, index) for i in range(steps)], steps, steps)
    after = net.state_dict()
    for name, wanted in _state(a, "out_").items():
        yield compare(
            file, f"{steps} steps: {name}{suffix}", after[name], wanted, gate, type(method).__name__
        )
    if "out_lr" in a:
        scales = [g["lr_scale"] for g in net.parameter_groups()]
        got = np.array(
            [scales[min(i, 1)] * method.lr_at(Progress(steps, steps, steps)) for i in range(len(a["out_lr"]))]
        )
        yield compare(file, f"rate after {steps} steps{suffix}", got, a["out_lr"], gate)


def _sam(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    """SAM's steps on cross-entropy of one Linear, through the passes of the loop; SGD with the common
    settings below it."""
    a = file.arrays
    linear = nn.Linear(a["in_weight"].shape[1], a["in_weight"].shape[0]).to(dtype)
    linear.load_state_dict({k: torch.from_numpy(a[f"in_{k}"]).to(dtype) for k in ("weight", "bias")})
    x, y = torch.from_numpy(a["in_x"]).to(dtype), torch.from_numpy(a["in_y"])
    steps = sum(k.startswith("out_step") and k.endswith("_weight") for k in a)
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> None:
        seen.update({f"{name}_{k}": v.detach().clone().numpy() for k, v in linear.named_parameters()})

    def loss_fn(module: nn.Module, batch: Any, step: int, current: Pass) -> Mapping[str, torch.Tensor]:
        if not current.ascend:
            keep(f"perturbed{step}")
        return {"loss": F.cross_entropy(module(x), y)}

    base = UdaMethod()
    run_loop(
        linear,
        loss_fn,
        lambda step, micro: None,
        Optimisation(
            torch.optim.SGD(
                linear.parameters(),
                lr=1.0,
                momentum=base.momentum,
                nesterov=base.nesterov,
                weight_decay=base.weight_decay,
            ),
            lambda step: float(a["in_lr"]),
            steps,
            passes=(Pass("sharpness", ascend=float(a["in_rho"])), Pass()),
        ),
        TrainingRun(LocalReporter(), on_step=lambda done, scalars: keep(f"step{done - 1}")),
    )
    for name, got in sorted(seen.items()):
        yield compare(file, f"{name}{suffix}", got, a[f"out_{name}"], gate)


def _split_update(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    """One update of SymNets: the classifiers' and the features' gradients apart, at the stored middle epoch
    and the first rate."""
    a = file.arrays
    method = _AtFirstRate()
    net = _network(_state(a, "in_"), int(a["in_K"]), method, dtype, torch.relu)
    x_s, x_t = (torch.from_numpy(a[k]).to(dtype) for k in ("in_x_s", "in_x_t"))
    index = torch.arange(len(x_s))
    epochs = sorted(
        int(k.split("_")[1].removeprefix("ep")) for k in a if k.startswith("out_ep") and k.endswith("_lam")
    )
    train_steps(
        net,
        [PairBatch(x_s, torch.from_numpy(a["in_labels"]), x_t, index, index)],
        epochs[-1] + 1,
        1,
        epochs[len(epochs) // 2],
    )
    after = net.state_dict()
    for name, wanted in _state(a, "out_step_").items():
        yield compare(file, f"one update: {name}{suffix}", after[name], wanted, gate)


class _AtFirstRate(SymNets):
    """The stored update is made at the rate of epoch 0 with the ramp of a later one."""

    def lr_at(self, progress: Progress) -> float:
        return self.lr
