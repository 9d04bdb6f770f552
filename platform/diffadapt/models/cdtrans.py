"""CDTrans' three branches over a timm vision transformer, and its pairs of source and target images (Xu et
al., ICLR 2022).

The branches share every weight: two are the plain network on source and target; the third, the fusion,
carries target tokens whose attention asks with the source's queries (section 3.2, equation 2). What is
trained is an ordinary timm model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.core.errors import RecipeError
from diffadapt.core.record import softmax

CAPACITY = 1 << 18
"""Pairs that a PairList can hold; of more, evenly spaced ones are kept."""


def three_branches(
    vit: nn.Module, x_s: torch.Tensor, x_t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (B, width) of the source, target and fusion branch for images (B, C, H, W) of the same number.

    The fusion starts from the target's embedded patches. Each branch is pooled as the model pools (its class
    token, the mean of class and distillation token, or the patches' mean). Raises RecipeError for a network
    other than a plain timm VisionTransformer.
    """
    demand_vit(vit)
    source, target = (vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x)))) for x in (x_s, x_t))
    fusion = target
    for block in vit.blocks:
        source, target, fusion = three_branch_block(block, source, target, fusion)
    f_s, f_t, f_st = vit.forward_head(vit.norm(torch.cat([source, target, fusion])), pre_logits=True).chunk(3)
    return f_s, f_t, f_st


def three_branch_block(
    block: nn.Module, source: torch.Tensor, target: torch.Tensor, fusion: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """One pre-norm block of timm on three token sequences (B, N, D): self-attention for source and target;
    for the fusion, attention of the source's queries to the target's keys and values."""
    normed = block.norm1(torch.cat([source, target]))
    tokens = torch.cat([source, target, fusion])
    tokens = tokens + block.drop_path1(block.ls1(_attend(block.attn, normed)))
    tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return tokens.chunk(3)


def _attend(attn: nn.Module, normed: torch.Tensor) -> torch.Tensor:
    """(2 B, N, D) normalised tokens of source and target -> (3 B, N, D) attention of source, target and
    fusion."""
    n, tokens, _ = normed.shape
    q, k, v = (
        attn.qkv(normed).reshape(n, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    )
    q, k = attn.q_norm(q), attn.k_norm(k)
    half = n // 2
    asked = torch.cat([q, q[:half]]), torch.cat([k, k[half:]]), torch.cat([v, v[half:]])
    out = F.scaled_dot_product_attention(*asked, dropout_p=attn.attn_drop.p if attn.training else 0.0)
    out = out.transpose(1, 2).reshape(len(out), tokens, -1)
    if hasattr(attn, "norm"):
        out = attn.norm(out)
    if getattr(attn, "gate", None) is not None:
        gate = attn.gate(normed).sigmoid()
        out = out * torch.cat([gate, gate[:half]])
    return attn.proj_drop(attn.proj(out))


def demand_vit(model: nn.Module) -> None:
    """Raise RecipeError unless ``model`` is a timm VisionTransformer of plain pre-norm blocks."""
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    plain = isinstance(model, VisionTransformer) and all(
        isinstance(b, Block) and isinstance(b.attn, Attention) for b in model.blocks
    )
    if not plain:
        raise RecipeError(
            "CDTrans attends across images and needs a plain vision transformer, but the backbone is"
            f" {type(model).__name__}: choose one such as deit_small_patch16_224 or vit_base_patch16_224."
        )


class PairList(nn.Module):
    """(source, target) indices of the pairs that training draws from, in buffers of a fixed size, so that
    checkpoints hold them."""

    index: torch.Tensor
    count: torch.Tensor

    def __init__(self, capacity: int = CAPACITY):
        super().__init__()
        self.register_buffer("index", torch.full((2, capacity), -1, dtype=torch.int32))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return int(self.count)

    def fill(self, source: np.ndarray, target: np.ndarray) -> None:
        """Replace the pairs by ``source`` and ``target``, int (P,)."""
        capacity = self.index.shape[1]
        if len(source) > capacity:
            kept = np.linspace(0, len(source) - 1, capacity).astype(np.int64)
            source, target = source[kept], target[kept]
        self.index.fill_(-1)
        self.index[:, : len(source)] = torch.as_tensor(np.stack([source, target]), dtype=torch.int32)
        self.count.fill_(len(source))

    def draw(self, rng: Any, count: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The ``step``-th batch of ``count`` pairs of an epoch, whose passes are permutations without their
        last, incomplete batch; none twice in a batch unless there are fewer (``rng``: numpy's Generator, in
        the state that it has at the epoch's beginning)."""
        passes, within = divmod(step, max(1, len(self) // count))
        order = [rng.permutation(len(self)) for _ in range(passes + 1)][-1]
        order = np.resize(order, max(len(order), count))[within * count : (within + 1) * count]
        source, target = (
            self.index[:, torch.as_tensor(order, device=self.index.device)].cpu().numpy().astype(np.int64)
        )
        return source, target


def nearest(source: torch.Tensor, target: torch.Tensor, block: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """The most similar (cosine) target of each source feature and source of each target feature: int64
    (N_s,), (N_t,)."""
    source, target = F.normalize(source, dim=1), F.normalize(target, dim=1)
    of_source: list[torch.Tensor] = []
    best = target.new_full((len(target),), -torch.inf)
    of_target = torch.zeros(len(target), dtype=torch.int64, device=target.device)
    for start in range(0, len(source), block):
        similar = source[start : start + block] @ target.T
        of_source.append(similar.argmax(1))
        value, row = similar.max(0)
        closer = value > best
        best, of_target = torch.where(closer, value, best), torch.where(closer, row + start, of_target)
    return torch.cat(of_source).cpu().numpy(), of_target.cpu().numpy()


def pseudo_labels(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """int64 (N,): the class whose centre is nearest by cosine (section 3.1, after SHOT, Liang et al. 2020,
    equations 4 and 5).

    Centres are means of the features, each with a constant 1 appended and scaled to unit length, weighted by
    softmax(logits); once refined with the labels that they give. Classes that no image is predicted as get no
    label.
    """
    f = np.concatenate([np.asarray(features, np.float64), np.ones((len(features), 1))], 1)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    weights = softmax(logits)
    present = np.unique(weights.argmax(1))
    labels = np.zeros(len(f), np.int64)
    for _ in range(2):
        centres = weights.T @ f / (1e-8 + weights.sum(0)[:, None])
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        labels = present[(f @ centres[present].T).argmax(1)]
        weights = np.eye(logits.shape[1])[labels]
    return labels


def pair_up(
    of_source: np.ndarray,
    of_target: np.ndarray,
    labels: np.ndarray,
    pseudo: np.ndarray,
    agreeing: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Two-way pairs (source, target), int64 (P,) each: every target with its nearest source, then every
    source with its nearest target; with ``agreeing`` those alone whose source label equals the target's
    pseudo-label (section 3.1, equation 1).
    """
    source = np.concatenate([of_target, np.arange(len(of_source))])
    target = np.concatenate([np.arange(len(of_target)), of_source])
    kept = labels[source] == pseudo[target] if agreeing else np.ones(len(source), bool)
    return source[kept], target[kept]
