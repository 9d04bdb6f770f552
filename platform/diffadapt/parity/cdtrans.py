"""Parity of CDTrans with its authors' implementation: pairs, losses with gradients, one block of three
branches, schedules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.compute.progress import Progress
from diffadapt.methods.uda.cdtrans import CdTrans
from diffadapt.models.cdtrans import nearest, pair_up, pseudo_labels, three_branch_block
from diffadapt.parity.check import EXACT_GATE, FLOAT_GATE, NumberFile, ParityRow, compare

GATE = 1e-9
BLOCK = "in_block."


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Iterator[ParityRow]:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    keys = set(file.arrays)
    if {"in_feat_source", "in_feat_target", "in_logits_target", "in_label_source"} <= keys:
        yield from _pairs(file)
    if {"in_score_source", "in_score_target", "in_score_fusion"} <= keys:
        yield from _losses(file)
    if BLOCK + "attn.qkv.weight" in keys:
        for dtype, gate in ((torch.float64, GATE), (torch.float32, FLOAT_GATE)):
            yield from _block(file, dtype, gate)
    yield from _schedules(file)


def _pairs(file: NumberFile) -> Iterator[ParityRow]:
    a = file.arrays
    pseudo = pseudo_labels(a.get("in_feat_target_afterbn", a["in_feat_target"]), a["in_logits_target"])
    yield compare(file, "pseudo-labels", pseudo, a["out_pseudo_label_target"], EXACT_GATE)
    of_source, of_target = nearest(
        torch.from_numpy(a["in_feat_source"]), torch.from_numpy(a["in_feat_target"]), block=7
    )
    yield compare(file, "nearest target of each source", of_source, a["out_nn_of_source"], EXACT_GATE)
    yield compare(file, "nearest source of each target", of_target, a["out_nn_of_target"], EXACT_GATE)
    for key, agreeing in (("out_pairs_filtered", True), ("out_pairs_all", False)):
        source, target = pair_up(of_source, of_target, a["in_label_source"], pseudo, agreeing)
        got = np.stack([source, target, a["in_label_source"][source], pseudo[target]], 1)
        yield compare(file, key.removeprefix("out_"), got, a[key], EXACT_GATE)


def _losses(file: NumberFile) -> Iterator[ParityRow]:
    a = file.arrays
    names = {"source": "out_loss1", "target": "out_loss2", "distillation": "out_loss3_distill"}
    for dtype, gate in ((torch.float64, GATE), (torch.float32, FLOAT_GATE)):
        suffix = f", {str(dtype).removeprefix('torch.')}"
        scores = {
            b: torch.from_numpy(a[f"in_score_{b}"]).to(dtype).requires_grad_(True)
            for b in ("source", "target", "fusion")
        }
        labels, pseudo = (torch.from_numpy(a[k]) for k in ("in_y_source", "in_y_target_pseudo"))
        parts = CdTrans.objective(*scores.values(), labels, pseudo)
        for name, key in names.items():
            yield compare(file, f"loss {name}{suffix}", parts[name].detach().numpy(), a[key], gate)
        gradients = torch.autograd.grad(torch.stack(list(parts.values())).sum(), list(scores.values()))
        for branch, gradient in zip(scores, gradients, strict=True):
            yield compare(file, f"gradient {branch}{suffix}", gradient.numpy(), a[f"out_grad_{branch}"], gate)
        if "out_labelsmooth_ce_source" in a:
            smooth = F.cross_entropy(scores["source"], labels, label_smoothing=CdTrans().label_smoothing)
            yield compare(
                file,
                f"label-smoothed cross-entropy{suffix}",
                smooth.detach().numpy(),
                a["out_labelsmooth_ce_source"],
                gate,
            )


def _block(file: NumberFile, dtype: torch.dtype, gate: float) -> Iterator[ParityRow]:
    """timm's block with the file's weights and two heads (their number is not in the file)."""
    from timm.models.vision_transformer import Block

    a = file.arrays
    state = {k.removeprefix(BLOCK): torch.from_numpy(v) for k, v in a.items() if k.startswith(BLOCK)}
    hidden, width = state["mlp.fc1.weight"].shape
    block = Block(
        width, 2, mlp_ratio=hidden / width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    ).eval()
    block.to(dtype).load_state_dict(state)
    tokens = [torch.from_numpy(a[f"in_tok_{b}"]).to(dtype) for b in ("source", "target", "fusion")]
    suffix = f", {str(dtype).removeprefix('torch.')}"
    with torch.no_grad():
        for branch, got in zip(
            ("source", "target", "fusion"), three_branch_block(block, *tokens), strict=True
        ):
            yield compare(file, f"block {branch}{suffix}", got.numpy(), a[f"out_tok_{branch}"], gate)
        if "out_tok_target_only" in a:
            yield compare(
                file, f"block target alone{suffix}", block(tokens[1]).numpy(), a["out_tok_target_only"], gate
            )


def _schedules(file: NumberFile) -> Iterator[ParityRow]:
    for key, wanted in sorted(file.arrays.items()):
        if re.fullmatch(r"cdtrans_lr_.*epoch1toT", key):
            epochs, pretraining = len(wanted), "pretrain" in key
            # The peak is not in the file; the first of ten warm-up epochs has 1/100 + 99/1000 of it.
            method = CdTrans(lr=float(wanted[0]) / 0.109, pretrain_epochs=epochs if pretraining else 0)
            got = [method.lr_at(Progress(e, epochs + pretraining, 1)) for e in range(epochs)]
            yield compare(
                file,
                f"{key}: learning rate",
                np.array(got),
                wanted,
                GATE * float(wanted.max()),
                note=f"lr {method.lr:g}",
            )
