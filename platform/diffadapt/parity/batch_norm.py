"""Parity of whole steps on networks with batch norm, running averages included: the methods of stage 1, and
MixMatch of stage 2.

A file names its method and the settings that are not the defaults; a network's weights have this package's
names. It holds batches of some steps, the weights before and after, the losses, and gradients of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import Progress
from diffadapt.methods.ssl.base import SslBatch
from diffadapt.methods.ssl.mixmatch import MixMatch
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.methods.uda.config import METHODS
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.parity.check import FLOAT_GATE, NumberFile, ParityRow, compare
from diffadapt.parity.uda_training import train_steps

GATE = 1e-9
PRECISIONS = ((torch.float64, GATE, ""), (torch.float32, FLOAT_GATE, ", float32"))
HEADS = 2
"""Attention heads of the stored vision transformers (their number is not in the weights)."""
Rows = Iterator[ParityRow]


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    keys = set(file.arrays)
    if "in_method" not in keys:
        return
    for dtype, gate, suffix in PRECISIONS:
        if {"in_x_s", "in_x_t", "in_y_s", "in_start", "in_sdat"} <= keys:
            yield from _steps(file, dtype, gate, suffix)
        if {"in_u1", "in_u2", "in_lam", "in_perm"} <= keys:
            yield from _mixmatch(file, dtype, gate, suffix)


class _Body(nn.Module):
    """The stored networks' backbone: a convolution with batch norm, averaged over the positions."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        out, channels, side, _ = weight.shape
        self.conv, self.bn = nn.Conv2d(channels, out, side), nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x))).mean((2, 3))


def _part(a: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in a.items() if k.startswith(prefix)}


def _load(module: nn.Module, state: Mapping[str, np.ndarray]) -> None:
    missing, unexpected = module.load_state_dict(
        {k: torch.from_numpy(v) for k, v in state.items()}, strict=False
    )
    own = ("num_batches_tracked", "pairs.index", "pairs.count")
    assert not unexpected and all(k.endswith(own) for k in missing), (missing, unexpected)


def _backbone(state: Mapping[str, np.ndarray], side: int) -> tuple[nn.Module, int]:
    """(the backbone that the weights are of, its width)."""
    if (weight := state.get("backbone.conv.weight")) is not None:
        return _Body(weight), len(weight)
    from timm.models.vision_transformer import VisionTransformer

    patch = state["backbone.patch_embed.proj.weight"]
    hidden, width = state["backbone.blocks.0.mlp.fc1.weight"].shape
    depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("backbone.blocks."))
    vit = VisionTransformer(
        img_size=side,
        patch_size=patch.shape[-1],
        embed_dim=width,
        depth=depth,
        num_heads=HEADS,
        mlp_ratio=hidden / width,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    return vit, width


def _classes(state: Mapping[str, np.ndarray], method: str) -> int:
    """Outputs of the head's last layer; SymNets has two for each class."""
    last = max(k for k in state if k.startswith("head.") and k.endswith("weight"))
    return len(state[last]) // (2 if method == "symnets" else 1)


def _network(file: NumberFile, dtype: torch.dtype) -> AdaptationNetwork:
    a = file.arrays
    name, before = str(a["in_method"]), _part(a, "in_state.")
    method: UdaMethod = METHODS[name](**{k: v.item() for k, v in _part(a, "in_set.").items()})
    torch.manual_seed(0)
    body, width = _backbone(before, a["in_x_s"].shape[-1])
    net = AdaptationNetwork(body, width, _classes(before, name), method).to(dtype)
    _load(net, before)
    if hasattr(net, "pairs"):
        net.pairs.fill(np.zeros(1, np.int64), np.zeros(1, np.int64))  # the stored batches are pairs
    return net


def _steps(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    """The stored steps through our loop, optimiser and schedule, after the gradients of the first alone."""
    a = file.arrays
    x_s, x_t = (torch.from_numpy(a[k]).to(dtype) for k in ("in_x_s", "in_x_t"))
    y_s = torch.from_numpy(a["in_y_s"])
    steps, start, per_epoch = len(x_s), int(a["in_start"]), int(a["in_steps_per_epoch"])
    index = torch.arange(x_s.shape[1])
    batches = [PairBatch(x_s[i], y_s[i], x_t[i], index, index) for i in range(steps)]

    net = _network(file, dtype).train()
    passes = net.method.passes_with(float(a["in_sdat"]))
    if gradients := _part(a, "out_grad."):
        first = Progress(start, int(a["in_epochs"]) * per_epoch, per_epoch, passes[0].name)
        net(batches[0], first)["loss"].backward()
        found = {k: p.grad for k, p in net.named_parameters()}
        for name, wanted in gradients.items():
            yield compare(file, f"gradient {name}{suffix}", found[name], wanted, gate)
    net = _network(file, dtype)
    total = int(a["in_epochs"]) * per_epoch
    seen = train_steps(net, batches, total, per_epoch, start, float(a["in_sdat"]))
    for key, name in (("out_loss", "loss"), ("out_classifiers", "classifiers"), ("out_features", "features")):
        if key in a:
            got = np.array([scalars[name] for scalars in seen])
            yield compare(
                file, f"{name} of {steps} steps{suffix}", got, a[key], FLOAT_GATE, "reported as float32"
            )
    after = net.state_dict()
    for name, wanted in _part(a, "out_state.").items():
        yield compare(file, f"{steps} steps: {name}{suffix}", after[name], wanted, gate)


class _Classifier(nn.Module):
    def __init__(self, state: Mapping[str, np.ndarray]):
        super().__init__()
        weight = state["head.weight"]
        self.backbone, self.head = _Body(state["backbone.conv.weight"]), nn.Linear(*weight.shape[::-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def _mixmatch(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    """One step's losses, gradients and running averages, with the stored mixing coefficient and order."""
    a = file.arrays
    before = _part(a, "in_state.")
    net = _Classifier(before).to(dtype)
    _load(net, before)
    x, u1, u2, share = (
        torch.from_numpy(np.asarray(a[k])).to(dtype) for k in ("in_x", "in_u1", "in_u2", "in_lam")
    )
    method = MixMatch(
        temperature=float(a["in_T"]),
        lambda_u=float(a["in_lambda_u"]),
        unsup_warm_up=float(a["in_unsup_warm_up"]),
    )
    batch = SslBatch(x, torch.from_numpy(a["in_y"]), (u1, u2), (), torch.arange(len(u1)))
    ramp = method.ramp(Progress(int(a["in_step"]), int(a["in_total"]), 1))
    found = method.mixed_losses(net.train(), batch, share, torch.from_numpy(a["in_perm"]), ramp)
    found["loss"].backward()
    for key, name in (("out_sup", "labelled"), ("out_unsup", "unlabelled"), ("out_total", "loss")):
        yield compare(file, f"{name}{suffix}", found[name].detach(), a[key], gate)
    parameters = dict(net.named_parameters())
    for name, wanted in _part(a, "out_grad.").items():
        yield compare(file, f"gradient {name}{suffix}", parameters[name].grad, wanted, gate)
    after: dict[str, Any] = net.state_dict()
    for name, wanted in _part(a, "out_state.").items():
        yield compare(file, f"one step: {name}{suffix}", after[name], wanted, gate)
