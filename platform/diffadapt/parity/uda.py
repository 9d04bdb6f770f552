"""Parity of the methods of stage 1 with their reference implementations: losses, gradients, schedules;
trainings are next door.

Files are recognised by their keys, never by their names. Everything is checked in float64 (1e-9) and float32
(1e-5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import Progress
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.methods.uda.cdan import Cdan
from diffadapt.methods.uda.layers import discriminator, domain_loss, entropy, imbalance, reversal, reverse
from diffadapt.methods.uda.mcc import Mcc
from diffadapt.methods.uda.mcd import Mcd
from diffadapt.methods.uda.symnets import SymNets
from diffadapt.parity import uda_training as parity_uda_training
from diffadapt.parity.check import FLOAT_GATE, NumberFile, ParityRow, compare

GATE = 1e-9
PRECISIONS = ((torch.float64, GATE, ""), (torch.float32, FLOAT_GATE, ", float32"))
Rows = Iterator[ParityRow]


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    keys = set(file.arrays)
    yield from _schedules(file)
    forms = (
        ({"in_f_s", "in_f_t", "in_disc.0.weight", "in_w_s"}, _dann),
        ({"in_f_s", "in_f_t", "in_g_s", "in_g_t", "in_disc.0.weight"}, _cdan),
        ({"in_y1_s", "in_y2_s", "in_y1_t", "in_y2_t", "in_labels"}, _mcd),
        ({"in_logits", "in_T", "out_grad"}, _mcc),
        ({"in_logits_source_2K", "in_logits_target_2K", "in_labels"}, _symnets),
    )
    for needed, form in forms:
        if needed <= keys:
            for dtype, gate, suffix in PRECISIONS:
                yield from form(file, dtype, gate, suffix)
    yield from parity_uda_training.checks(file)


def not_followed(file: NumberFile, check: str, why: str) -> ParityRow:
    """A row for stored numbers of another variant than ours, so that nothing is silently left out."""
    return ParityRow(file.name, check, math.nan, math.nan, True, f"not followed: {why}")


def _schedules(file: NumberFile) -> Rows:
    a = file.arrays
    if "iters" in a:
        for key, wanted in sorted(a.items()):
            named = re.fullmatch(r"grl_a([\d.]+)_lo([\d.]+)_hi([\d.]+)_N(\d+)", key)
            if named:
                alpha, low, high, steps = (float(v) for v in named.groups())
                yield compare(
                    file,
                    key,
                    np.array([reversal(int(i), alpha, low, high, int(steps)) for i in a["iters"]]),
                    wanted,
                    GATE,
                )
        if "cdan_calc_coeff" in a:
            yield compare(
                file,
                "cdan_calc_coeff",
                np.array([reversal(int(i), 10, 0, 1, 10000) for i in a["iters"]]),
                a["cdan_calc_coeff"],
                GATE,
            )
        if "cdan_inv_lr_backbone_head" in a:
            yield compare(
                file,
                "cdan_inv_lr_backbone_head",
                _rates(UdaMethod(), a["iters"]),
                a["cdan_inv_lr_backbone_head"],
                GATE,
            )
    if "grl_autostep_first3" in a:
        yield compare(
            file,
            "grl_autostep_first3",
            np.array([reversal(i) for i in range(len(a["grl_autostep_first3"]))]),
            a["grl_autostep_first3"],
            GATE,
        )
    if "tllib_lr_iters" in a:
        yield compare(
            file,
            "tllib_lr_backbone_head",
            _rates(UdaMethod(), a["tllib_lr_iters"]),
            a["tllib_lr_backbone_head"],
            GATE,
        )
    if "symnets_epochs" in a:
        epochs = _length(a)
        ramps = np.array([SymNets.ramp(Progress(int(e), epochs, 1)) for e in a["symnets_epochs"]])
        yield compare(file, "symnets_lam", ramps, a["symnets_lam"], GATE, f"{epochs} epochs")
        yield compare(
            file,
            "symnets_lr_pretrained_new",
            _rates(SymNets(), a["symnets_epochs"], epochs),
            a["symnets_lr_pretrained_new"],
            GATE,
        )


def _rates(method: UdaMethod, steps: Sequence[int], total: int = 1 << 40) -> np.ndarray:
    head = np.array([method.lr_at(Progress(int(i), total, 1)) for i in steps])
    return np.stack([method.backbone_lr * head, head], 1)


def _length(a: Mapping[str, np.ndarray]) -> int:
    """The number of epochs that the stored ramp 2 / (1 + e^(-10 e / E)) - 1 belongs to."""
    at = int(np.argmax((a["symnets_epochs"] > 0) & (a["symnets_lam"] < 0.99)))
    lam = float(a["symnets_lam"][at])
    return round(10 * float(a["symnets_epochs"][at]) / math.log((1 + lam) / (1 - lam)))


def _given(a: Mapping[str, np.ndarray], dtype: torch.dtype, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(a[n]).to(dtype).requires_grad_(True) for n in names]


def stored_discriminator(a: Mapping[str, np.ndarray], prefix: str, dtype: torch.dtype) -> nn.Module:
    """Our discriminator with the weights ``<prefix>.0.weight`` ...; the reference's last Linear lies one
    level deeper."""
    weight = a[f"{prefix}.0.weight"]
    module = discriminator(weight.shape[1], weight.shape[0]).to(dtype)
    state = {
        k.removeprefix(f"{prefix}.").replace("6.0.", "6."): torch.from_numpy(v)
        for k, v in a.items()
        if k.startswith(f"{prefix}.")
    }
    module.load_state_dict(state, strict=False)
    return module


def _dann(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a = file.arrays
    for name in sorted(k for k in a if re.fullmatch(r"out_loss_it\d+(_w)?", k)):
        what = name.removeprefix("out_loss_")
        discriminator = stored_discriminator(a, "in_disc", dtype)
        f_s, f_t = _given(a, dtype, "in_f_s", "in_f_t")
        weights = torch.cat(_given(a, dtype, "in_w_s", "in_w_t")).detach() if what.endswith("_w") else None
        step = int(re.findall(r"\d+", what)[0])
        loss, accuracy = domain_loss(
            discriminator(reverse(torch.cat([f_s, f_t]), reversal(step))), len(f_s), weights
        )
        loss.backward()
        yield compare(file, f"loss {what}{suffix}", loss.detach(), a[name], gate)
        yield compare(
            file, f"domain accuracy {what}{suffix}", 100 * accuracy.numpy(), a[f"out_dacc_{what}"], FLOAT_GATE
        )
        gradients = {f"out_gfs_{what}": f_s.grad, f"out_gft_{what}": f_t.grad}
        gradients |= {
            f"out_gdisc_{what}.{k}".replace(".6.", ".6.0."): p.grad
            for k, p in discriminator.named_parameters()
        }
        for key, gradient in gradients.items():
            yield compare(file, f"gradient {key.removeprefix('out_g')}{suffix}", gradient, a[key], gate)
    if dtype == torch.float64 and "out_loss_2logit_it500" in a:
        yield not_followed(
            file, "2-logit discriminator", "we use the one-logit form, Transfer-Learning-Library's default"
        )


class _Net(SimpleNamespace):
    """Stands for a network whose features and logits are the stored ones."""

    def forward_both(self, batch: PairBatch) -> Any:
        return (self.f[: self.n], self.f[self.n :]), self.f


def _cdan(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a = file.arrays
    coefficient = _coefficient(a)
    # The method takes a step, not a coefficient: the step that gives it, along 2 / (1 + e^(-i / N)) - 1.
    step = 1_000_000
    scale = step / math.log((1 + coefficient) / (1 - coefficient))
    for what in ("plain", "entropy", "randomized"):
        if f"out_loss_{what}" not in a:
            continue
        losses, f_s, f_t = _cdan_losses(a, what, dtype, step, scale)
        losses["domain"].backward()
        yield compare(file, f"loss {what}{suffix}", losses["domain"].detach(), a[f"out_loss_{what}"], gate)
        for name, f in (("gfs", f_s), ("gft", f_t)):
            note = (
                f"reversal coefficient {coefficient:.6g}, step"
                f" {1000 * math.log((1 + coefficient) / (1 - coefficient)):.4g} of the schedule"
            )
            yield compare(
                file, f"gradient {name[1:]} {what}{suffix}", f.grad, a[f"out_{name}_{what}"], gate, note
            )
        if f"out_dacc_{what}" in a:
            yield compare(
                file,
                f"domain accuracy {what}{suffix}",
                100 * losses["domain_accuracy"].numpy(),
                a[f"out_dacc_{what}"],
                FLOAT_GATE,
            )
    if dtype == torch.float64 and "out_loss_authors_entropy" in a:
        why = (
            "the authors normalise the weights of the domains apart and let gradients through them; ours is"
            " Transfer-Learning-Library's form"
        )
        yield not_followed(file, "the authors' discriminator and entropy weights", why)


def _cdan_losses(
    a: Mapping[str, np.ndarray], what: str, dtype: torch.dtype, step: int, scale: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    method = Cdan(entropy=what == "entropy", randomized=what == "randomized", reversal_steps=scale)  # type: ignore[arg-type]
    f_s, f_t = _given(a, dtype, "in_f_s", "in_f_t")
    g = torch.cat(_given(a, dtype, "in_g_s", "in_g_t")).detach()
    net = _Net(
        f=torch.cat([f_s, f_t]),
        n=len(f_s),
        head=lambda f: g,
        discriminator=stored_discriminator(a, "in_discr" if method.randomized else "in_disc", dtype),
    )
    if method.randomized:
        built = method.build(f_s.shape[1], g.shape[1])
        net.random_map = built["random_map"]
        net.random_map.of_features, net.random_map.of_predictions = (
            torch.from_numpy(a[k]).to(dtype) for k in ("in_Rf", "in_Rg")
        )
    labels = torch.zeros(len(f_s), dtype=torch.int64)
    return (
        method.losses(net, PairBatch(f_s, labels, f_t, labels, labels), Progress(step, step + 1, 1)),
        f_s,
        f_t,
    )  # type: ignore[arg-type]


def _coefficient(a: Mapping[str, np.ndarray]) -> float:
    """The reversal coefficient that the stored gradient of the plain form has: the file does not name its
    step."""
    losses, f_s, _ = _cdan_losses(a, "plain", torch.float64, 1, 1 / math.log(3))  # coefficient 1/2
    losses["domain"].backward()
    assert f_s.grad is not None
    mine, wanted = f_s.grad.numpy(), a["out_gfs_plain"]
    return float(0.5 * (mine * wanted).sum() / (mine * mine).sum())


def _mcd(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a = file.arrays
    method = Mcd(trade_off=float(a["in_trade_off"]), entropy=float(a["in_trade_off_entropy"]))
    names = ("y1_s", "y2_s", "y1_t", "y2_t")
    for pass_name, step in (("task", "stepA"), ("diverge", "stepB"), ("agree", "")):
        y1_s, y2_s, y1_t, y2_t = given = _given(a, dtype, *(f"in_{n}" for n in names))
        one, two = torch.cat([y1_s, y1_t]), torch.cat([y2_s, y2_t])
        net = _Net(f=one, n=len(y1_s), head=lambda f, z=one: z, head2=lambda f, z=two: z)
        labels = torch.from_numpy(a["in_labels"])
        losses = method.losses(
            net, PairBatch(y1_s, labels, y1_t, labels, labels), Progress(0, 1, 1, pass_name)
        )  # type: ignore[arg-type]
        if not step:
            yield compare(
                file, f"discrepancy{suffix}", losses["discrepancy"].detach(), a["out_discrepancy"], gate
            )
            continue
        losses["loss"].backward()
        yield compare(file, f"loss {step}{suffix}", losses["loss"].detach(), a[f"out_loss_{step}"], gate)
        for name, z in zip(names, given, strict=True):
            yield compare(file, f"gradient {step} {name}{suffix}", z.grad, a[f"out_grad_{step}_{name}"], gate)
    for i in (1, 2):
        p = F.softmax(torch.from_numpy(a[f"in_y{i}_t"]).to(dtype), 1)
        yield compare(file, f"entropy{i}{suffix}", imbalance(p), a[f"out_entropy{i}"], gate)
    if dtype == torch.float64 and "out_authors_ent" in a:
        yield not_followed(
            file,
            "the authors' entropy",
            "the mean over items of each one's entropy; ours is Transfer-Learning-Library's class balance",
        )


def _mcc(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a = file.arrays
    for i, temperature in enumerate(a["in_T"]):
        (logits,) = _given(a, dtype, "in_logits")
        loss = Mcc.confusion(logits, float(temperature))
        loss.backward()
        yield compare(
            file, f"loss, temperature {temperature:g}{suffix}", loss.detach(), a["out_loss"][i], gate
        )
        yield compare(
            file, f"gradient, temperature {temperature:g}{suffix}", logits.grad, a["out_grad"][i], gate
        )
    if "out_tllib_entropy_eps1e5" in a:
        p = F.softmax(torch.from_numpy(a["in_logits"]).to(dtype), 1)
        yield compare(file, f"entropy{suffix}", entropy(p), a["out_tllib_entropy_eps1e5"], gate)


def _symnets(file: NumberFile, dtype: torch.dtype, gate: float, suffix: str) -> Rows:
    a, parts = (
        file.arrays,
        {
            "loss_task_s_Cs": "task_source",
            "loss_task_s_Ct": "task_target",
            "loss_domain_st_Cst_part1": "domain_source",
            "loss_domain_st_Cst_part2": "domain_target",
            "loss_category_st_G": "category",
            "loss_domain_st_G": "confusion",
            "loss_target_em": "entropy",
        },
    )
    labels = torch.from_numpy(a["in_labels"])
    for epoch in sorted({int(n[1]) for k in a if (n := re.match(r"out_ep(\d+)_", k))}):
        source, target = _given(a, dtype, "in_logits_source_2K", "in_logits_target_2K")
        lam = float(a[f"out_ep{epoch}_lam"])
        for side in ("classifier", "G"):
            terms = SymNets.terms(source, target, labels)
            if side == "classifier":
                for key, name in parts.items():
                    yield compare(
                        file,
                        f"epoch {epoch} {key}{suffix}",
                        getattr(terms, name).detach(),
                        a[f"out_ep{epoch}_{key}"],
                        gate,
                    )
            loss = SymNets.of_classifiers(terms) if side == "classifier" else SymNets.of_features(terms, lam)
            yield compare(
                file,
                f"epoch {epoch} loss {side}{suffix}",
                loss.detach(),
                a[f"out_ep{epoch}_loss_{side}"],
                gate,
            )
            for name, gradient in zip(
                ("source", "target"),
                torch.autograd.grad(loss, (source, target), allow_unused=True),
                strict=True,
            ):
                wanted = a[f"out_ep{epoch}_grad_loss_{side}_{name}"]
                yield compare(
                    file,
                    f"epoch {epoch} gradient {side} {name}{suffix}",
                    np.zeros_like(wanted) if gradient is None else gradient,
                    wanted,
                    gate,
                )
    if dtype == torch.float64 and "out_alt_pytorch_adapt_category" in a:
        yield not_followed(
            file,
            "pytorch-adapt's category loss",
            "cross-entropy of an already softmaxed half; ours is the authors'",
        )
