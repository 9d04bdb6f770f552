"""Stage 2's parity checks: semi-supervised losses and their states, averaged weights, a whole FixMatch
training.

Files are recognised by their keys, never by their names. Losses run in float64 (gate 1e-9) and again in
float32 (1e-5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.compute.progress import Progress
from diffadapt.methods.ssl.base import SslBatch
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.ssl.fixmatch import FixMatch
from diffadapt.methods.ssl.flexmatch import FlexMatch, learning_status
from diffadapt.methods.ssl.freematch import FreeMatch, fairness_loss
from diffadapt.methods.ssl.layers import interleave_order, sharpen, soft_cross_entropy, weighted_cross_entropy
from diffadapt.methods.ssl.mixmatch import MixMatch, mix
from diffadapt.methods.ssl.softmatch import SoftMatch
from diffadapt.parity.check import EXACT_GATE, FLOAT_GATE, NumberFile, ParityRow, compare
from diffadapt.tasks.classification.semi_supervised import SslNetwork, make_optimizer
from diffadapt.train.ema import Ema
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun

DOUBLE_GATE = 1e-9
Rows = Iterator[ParityRow]


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    keys = set(file.arrays)
    for form, needed in _FORMS:
        if needed <= keys:
            for dtype in (torch.float64, torch.float32):
                yield from form(_Numbers(file, dtype))
    yield from _cosine(file)


class _Numbers:
    """A file's arrays as tensors of one precision, and comparisons with that precision's gate."""

    def __init__(self, file: NumberFile, dtype: torch.dtype):
        self.file, self.dtype = file, dtype
        self.gate = DOUBLE_GATE if dtype == torch.float64 else FLOAT_GATE

    def __getitem__(self, key: str) -> torch.Tensor:
        value = torch.from_numpy(np.array(self.file.arrays[key]))
        return value.to(self.dtype) if value.is_floating_point() else value

    def __contains__(self, key: str) -> bool:
        return key in self.file.arrays

    def matching(self, pattern: str) -> list[tuple[str, re.Match[str]]]:
        """Keys that ``pattern`` matches whole, sorted."""
        result = [(key, re.fullmatch(pattern, key)) for key in sorted(self.file.arrays)]
        return [(key, match) for key, match in result if match]

    def check(self, key: str, got: Any, gate: float | None = None, note: str = "") -> ParityRow:
        name = key if self.dtype == torch.float64 else f"{key} (float32)"
        got = got.detach().cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        return compare(self.file, name, got, self.file.arrays[key], gate or self.gate, note)

    def left(self, keys: Sequence[str], why: str) -> Rows:
        """One row for numbers that are deliberately not followed."""
        if keys and self.dtype == torch.float64:
            yield ParityRow(
                self.file.name, f"{', '.join(keys)}: not followed", float("nan"), float("nan"), True, why
            )


class _Given(nn.Module):
    """A network whose inputs are logits already, or one of a single matrix; with a method's state."""

    def __init__(self, state: nn.Module | None = None, weight: torch.Tensor | None = None):
        super().__init__()
        self.state, self.weight = state, weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.weight is None else x @ self.weight


def _views(x: torch.Tensor, y: torch.Tensor, weak: torch.Tensor, strong: torch.Tensor) -> SslBatch:
    return SslBatch(x, y, (weak,), (strong,), torch.arange(len(weak)))


_START = Progress(0, 1, 1)


def _fixmatch(n: _Numbers) -> Rows:
    done: set[str] = set()
    for key, match in n.matching(r"out_(?:tllib|usb)_tau([\d.]+)_(mask|loss|hard_loss|grad_strong)"):
        method = FixMatch(threshold=float(match[1]))
        strong = n["in_logits_strong"].requires_grad_()
        batch = _views(n["in_logits_x"], n["in_y"], n["in_logits_weak"], strong)
        found = method.losses(_Given(), batch, _START)
        found["loss"].backward()
        targets, weights = method.weigh(_Given(), n["in_logits_weak"], batch)
        mine = {
            "mask": weights,
            "loss": found["unlabelled"],
            "hard_loss": found["unlabelled"],
            "grad_strong": strong.grad,
        }
        yield n.check(key, mine[match[2]])
        for once, value in (("out_pseudo_label", targets), ("out_usb_sup_loss", found["labelled"])):
            if once in n and once not in done:
                done.add(once)
                yield n.check(once, value)
    if "in_kek_W" in n:
        batch = _views(n["in_kek_x"], n["in_y"], n["in_kek_weak"], n["in_kek_strong"])
        found = FixMatch(forward="joint").losses(_Given(weight=n["in_kek_W"]), batch, _START)
        for key, name in (("out_kek_Lx", "labelled"), ("out_kek_Lu", "unlabelled"), ("out_kek_loss", "loss")):
            yield n.check(key, found[name])
        yield n.check("out_kek_mask", FixMatch().weigh(_Given(), n["in_kek_weak"] @ n["in_kek_W"], batch)[1])
    yield from n.left(
        [k for k, _ in n.matching(r"out_usb_.*(soft|mse).*")],
        "other consistency losses than the paper's cross-entropy with hard labels",
    )
    yield from n.left(
        [k for k, _ in n.matching("out_kek_interleave_order")],
        "one process a device: no batch is cut across devices, so nothing is interleaved",
    )


def _flexmatch(n: _Numbers) -> Rows:
    classes, unlabelled = n["in_logits_weak"].shape[2], int(n["in_n_unlabeled"])
    for key, match in n.matching(r"out_flex_warm([01])_mask"):
        method = FlexMatch(threshold_warmup=match[1] == "1")
        net = _Given(method.build(classes, unlabelled))
        masks, statuses, thresholds = [], [], []
        for logits, index in zip(n["in_logits_weak"], n["in_index"], strict=True):
            status = learning_status(net.state.predicted, classes, method.threshold_warmup)[logits.argmax(1)]
            thresholds.append(method.threshold * status / (2 - status))
            masks.append(method.weigh(net, logits, SslBatch(logits, index, (), (), index))[1])
            statuses.append(learning_status(net.state.predicted, classes, method.threshold_warmup))
        yield n.check(key, torch.stack(masks), EXACT_GATE)
        yield n.check(f"out_flex_warm{match[1]}_classwise_acc", torch.stack(statuses))
        yield n.check(
            f"out_flex_tllib_warm{match[1]}_threshold",
            torch.stack(thresholds),
            FLOAT_GATE,
            "stored from a float32 computation",
        )


def _freematch(n: _Numbers) -> Rows:
    classes = n["in_logits_weak"].shape[2]
    for key, match in n.matching(r"out_free_q([01])c([01])_mask"):
        prefix = key.removesuffix("mask")
        method = FreeMatch(
            momentum=float(n["in_free_soft_momentum"]), quantile=match[1] == "1", clip=match[2] == "1"
        )
        net = _Given(method.build(classes, 1))
        found: dict[str, list[torch.Tensor]] = {
            name: [] for name in ("mask", "time_p", "p_model", "label_hist", "entropy_loss", "unsup")
        }
        for weak, strong in zip(n["in_logits_weak"], n["in_logits_strong"], strict=True):
            targets, weights = method.weigh(net, weak, None)
            s = net.state
            terms = (
                fairness_loss(strong, weights, s.mean, s.histogram),
                weighted_cross_entropy(strong, targets, weights),
            )
            for name, value in zip(found, (weights, s.level, s.mean, s.histogram, *terms), strict=True):
                found[name].append(value.clone())
        for name, values in found.items():
            yield n.check(prefix + name, torch.stack(values), EXACT_GATE if name == "mask" else None)


def _softmatch(n: _Numbers) -> Rows:
    method = SoftMatch(momentum=float(n["in_free_soft_momentum"]))
    net, apart = (_Given(method.build(n["in_logits_weak"].shape[2], 1)) for _ in range(2))
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("weight", "mu", "var", "aligned", "unsup")}
    for weak, strong in zip(n["in_logits_weak"], n["in_logits_strong"], strict=True):
        targets, weights = method.weigh(net, weak, None)
        aligned = method.aligned(apart.state, weak.softmax(1))
        values = (
            weights,
            net.state.mu,
            net.state.variance,
            aligned,
            weighted_cross_entropy(strong, targets, weights),
        )
        for name, value in zip(found, values, strict=True):
            found[name].append(value.clone())
    for name, values in found.items():
        if f"out_soft_{name}" in n:
            yield n.check(f"out_soft_{name}", torch.stack(values))


def _mixmatch(n: _Numbers) -> Rows:
    settings = {"temperature": "in_T", "alpha": "in_alpha", "lambda_u": "in_lambda_u"}
    method = MixMatch(**{k: float(n[key]) for k, key in settings.items()}, forward="interleave")
    net, batch = (
        _Given(weight=n["in_W"]),
        SslBatch(n["in_x"], n["in_y"], (n["in_u1"], n["in_u2"]), (), torch.arange(len(n["in_u1"]))),
    )
    guess = method.guess(net, batch.weak)
    yield n.check("out_targets_u", guess)
    labels = nn.functional.one_hot(batch.y, guess.shape[1]).to(n.dtype)
    rows, targets = torch.cat([batch.x, *batch.weak]), torch.cat([labels, guess, guess])
    x, mixed = mix(rows, targets, n["in_l_used"], n["in_perm_used"])
    count = len(batch.x)
    for key, got in (
        ("out_mixed_input", x),
        ("out_mixed_target", mixed),
        ("out_logits_x", net(x[:count])),
        ("out_logits_u", net(x[count:])),
    ):
        yield n.check(key, got)
    yield n.check("out_interleave_order", interleave_order(count, len(rows) // count))
    ramp = float(n["in_epoch_float"]) / float(n["in_epochs"])
    found = method.mixed_losses(net, batch, n["in_l_used"], n["in_perm_used"], ramp)
    for key, name in (
        ("out_Lx", "labelled"),
        ("out_Lu", "unlabelled"),
        ("out_w", "weight"),
        ("out_loss", "loss"),
    ):
        yield n.check(key, found[name])
    if "in_sharp_p" in n:
        yield n.check("out_sharp_T05", sharpen(n["in_sharp_p"], 0.5))
    if "in_usb_lam" in n:
        x, mixed = mix(rows, targets, n["in_usb_lam"], n["in_usb_perm"])
        logits = net(x)
        yield n.check("out_usb_mixed_x", x)
        yield n.check("out_usb_mixed_y", mixed)
        yield n.check("out_usb_sup", soft_cross_entropy(logits[:count], mixed[:count]))
        yield n.check("out_usb_unsup", ((logits[count:].softmax(1) - mixed[count:]) ** 2).mean())


def _mixmatch_ema(n: _Numbers) -> Rows:
    model, average = (_layers(n, f"in_ema_{which}_") for which in ("model", "ema"))
    ema = Ema(average, MixMatch().ema, warmup=False)
    ema.update(model)
    for key, _ in n.matching(r"out_ema_ema_.*"):
        yield n.check(key, ema.shadow[key.removeprefix("out_ema_ema_")], FLOAT_GATE)
    yield from n.left(
        [k for k, _ in n.matching(r"out_ema_model_.*")],
        "the original shrinks weights (and running averages) in its EMA step; here weight decay is the"
        " optimiser's",
    )


def _ema(n: _Numbers) -> Rows:
    model = _layers(n, "in_start_")
    ema = Ema(model, float(n["in_decay"]), warmup=False)
    for step in range(len({m[1] for _, m in n.matching(r"in_step(\d+)_.*")})):
        ema.update(_layers(n, f"in_step{step}_"))
    for key, _ in n.matching(r"out_\d+\..*"):
        yield n.check(key, ema.shadow[key.removeprefix("out_")])


def _layers(n: _Numbers, prefix: str) -> nn.Sequential:
    """Linear and BatchNorm1d layers with the weights stored under ``prefix``."""
    state = {key.removeprefix(prefix): n[key] for key, _ in n.matching(re.escape(prefix) + r"\d+\..*")}
    layers: list[nn.Module] = []
    for i in range(1 + max(int(key.split(".")[0]) for key in state)):
        weight = state[f"{i}.weight"]
        layers.append(
            nn.BatchNorm1d(len(weight))
            if f"{i}.running_mean" in state
            else nn.Linear(weight.shape[1], weight.shape[0])
        )
    model = nn.Sequential(*layers).to(n.dtype)
    model.load_state_dict(state)
    return model


class _Classifier(nn.Module):
    """The trajectories' network: tanh(Linear), then Linear-BatchNorm-ReLU, then Linear; the last two at the
    full rate."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        body, inner, head = (state[f"{name}.weight"] for name in ("backbone.l", "bottleneck.0", "head"))
        self.backbone = nn.Module()
        self.backbone.l = nn.Linear(body.shape[1], body.shape[0])
        self.bottleneck = nn.Sequential(
            nn.Linear(inner.shape[1], inner.shape[0]), nn.BatchNorm1d(inner.shape[0]), nn.ReLU()
        )
        self.head = nn.Linear(head.shape[1], head.shape[0])
        self.to(head.dtype)
        self.load_state_dict(state, strict=False)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.bottleneck, self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bottleneck(torch.tanh(self.backbone.l(x))))


def _trajectory(n: _Numbers) -> Rows:
    """Four steps of Transfer-Learning-Library's own training, through our loop, optimiser and schedule."""
    model = _Classifier({key.removeprefix("in_clf."): n[key] for key, _ in n.matching(r"in_clf\..*")})
    x, y, weak, strong = (n[key] for key in ("in_x_s", "in_y_s", "in_x_t", "in_x_t_strong"))
    steps, count = len(x), weak.shape[1]
    config = replace(
        SslConfig(method="fixmatch"), fixmatch=FixMatch(threshold=float(n["in_threshold"]), ema=0.0)
    )
    method = config.chosen
    network = SslNetwork(model, method, model.head.out_features, count)

    def progress(step: int) -> Progress:
        return Progress(step, steps, steps)

    run_loop(
        network,
        lambda net, batch, step: net(batch, progress(step)),
        lambda step, micro: _views(x[step], y[step], weak[step], strong[step]),
        Optimisation(make_optimizer(network), lambda step: method.lr_at(progress(step)), steps),
        TrainingRun(LocalReporter()),
    )
    state = model.state_dict()
    for key, _ in n.matching(r"out_clf\..*"):
        yield n.check(key, state[key.removeprefix("out_clf.")])


def _cosine(file: NumberFile) -> Rows:
    for key in sorted(file.arrays):
        match = re.fullmatch(r"fixmatch_lr_warm(\d+)_total(\d+)_base([\d.]+)", key)
        if match:
            total = int(match[2])
            method = FixMatch(lr=float(match[3]), schedule="cosine", warmup_steps=int(match[1]))
            rates = [method.lr_at(Progress(step, total, total)) for step in range(len(file.arrays[key]))]
            yield compare(file, key, np.asarray(rates), file.arrays[key], DOUBLE_GATE)


_FORMS = (
    (_fixmatch, {"in_logits_x", "in_y", "in_logits_weak", "in_logits_strong", "out_pseudo_label"}),
    (_flexmatch, {"in_logits_weak", "in_logits_strong", "in_index", "in_n_unlabeled"}),
    (_freematch, {"in_logits_weak", "in_logits_strong", "in_free_soft_momentum"}),
    (_softmatch, {"in_logits_weak", "in_logits_strong", "in_free_soft_momentum", "out_soft_weight"}),
    (_mixmatch, {"in_W", "in_x", "in_u1", "in_u2", "in_l_used", "in_perm_used"}),
    (_mixmatch_ema, {"in_ema_model_0.weight", "in_ema_ema_0.weight"}),
    (_ema, {"in_start_0.weight", "in_step0_0.weight", "in_decay"}),
    (_trajectory, {"in_clf.head.weight", "in_x_t_strong", "in_threshold"}),
)
