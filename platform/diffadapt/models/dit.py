"""The diffusion transformer (DiT, Peebles & Xie 2023) on diffusers' DiTTransformer2DModel, made equal to the
original.

diffusers' class differs from the authors' network in three ways that this module mends: its sinusoidal
timestep frequencies are shifted (relative output error 0.47 at t = 999), its second layer norm has eps 1e-5
instead of 1e-6, and every block carries its own copy of the timestep and class embedders, with label dropout
drawn anew in each block while training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from diffadapt.core.errors import WeightsError
from diffadapt.models.diffusers_folder import save_component

NORM_EPS = 1e-6


class _Last:
    """What block 0's embedder gave in this forward pass, for the other blocks; nothing while gradients are
    recorded, so that a training sums them block by block, and while a compiler looks, which finds by itself
    what is equal."""

    def __init__(self) -> None:
        self.given: Tensor | None = None

    def keep(self, module: nn.Module, args: object, out: Tensor) -> None:
        self.given = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else out


class _Borrowed(nn.Module):
    """Stands for block 0's embedder in another block without owning its parameters, so that state dicts name
    them once; its blocks all have the same time and label, so that one pass serves them."""

    def __init__(self, owner: nn.Module, last: _Last):
        super().__init__()
        self._owner, self._last = [owner], last

    def forward(self, *args, **kwargs) -> Tensor:
        known = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else self._last.given
        return self._owner[0](*args, **kwargs) if known is None else known


def _borrow(blocks: Any) -> None:
    """Let all blocks but the first borrow its embedder."""
    owner, last = blocks[0].norm1.emb, _Last()
    owner.register_forward_hook(last.keep)
    for block in blocks[1:]:
        block.norm1.emb = _Borrowed(owner, last)


def make_exact(model: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """Turn ``model``, in place, into the authors' network: exact frequencies and eps, one embedder shared by
    all blocks.

    The published DiT-XL/2 thereby has 675M parameters instead of 750M, and its state dict names the embedder
    under block 0 only (:func:`save_dit` writes it out for every block). A label equal to :func:`num_classes`
    is the null class.
    Raises WeightsError if the blocks' embedders differ, which no original checkpoint can express.
    """
    blocks = model.transformer_blocks
    shared = blocks[0].norm1.emb
    shared.time_proj.downscale_freq_shift = 0
    shared.class_embedder.dropout_prob = 0.0  # the caller draws the null class, once per image
    if not any(isinstance(block.norm1.emb, _Borrowed) for block in blocks):
        for block in blocks[1:]:
            _demand_equal(shared, block.norm1.emb)
        _borrow(blocks)
    for block in blocks:
        block.norm1.norm.eps = NORM_EPS
        block.norm3.eps = NORM_EPS
    model.norm_out.eps = NORM_EPS
    return model


def build_dit(**config) -> DiTTransformer2DModel:
    """A DiTTransformer2DModel with eps 1e-6 and :func:`make_exact` applied; keywords as in diffusers."""
    model = DiTTransformer2DModel(**{"norm_eps": NORM_EPS, **config})
    _borrow(model.transformer_blocks)
    return make_exact(model)


def num_classes(model: DiTTransformer2DModel) -> int:
    """Classes the model was trained for, without the null class, whose index this number is."""
    return int(model.config.num_embeds_ada_norm)


def has_null_class(model: DiTTransformer2DModel) -> bool:
    return model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.num_embeddings > num_classes(
        model
    )


def learns_sigma(model: DiTTransformer2DModel) -> bool:
    """Whether the second half of the output channels is the learned variance."""
    return model.out_channels == 2 * model.config.in_channels


def zero_init(model: DiTTransformer2DModel) -> None:
    """adaLN-Zero (section 3.2): every block starts as the identity and the output as zero.

    The embedders keep torch's unit-variance start: the paper's standard deviation of 0.02 suits its 400,000
    steps, but after 1000 steps a classifier recognised 55% of a small network's samples with it and 95%
    without.
    """
    for linear in [block.norm1.linear for block in model.transformer_blocks] + [
        model.proj_out_1,
        model.proj_out_2,
    ]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def save_dit(model: DiTTransformer2DModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and safetensors that stock diffusers reads: the shared embedder is written once
    for each block."""
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
    first = "transformer_blocks.0.norm1.emb."
    for name in [name for name in state if name.startswith(first)]:
        for i in range(1, len(model.transformer_blocks)):
            state[name.replace(first, f"transformer_blocks.{i}.norm1.emb.")] = state[name].clone()
    with torch.device("meta"):
        twin = DiTTransformer2DModel.from_config(dict(model.config))
    twin.load_state_dict(state, assign=True)
    save_component(twin, folder)


def guided(
    model: Callable[..., Tensor], labels: Tensor, guidance: float, null: int, channels: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """``network(x, t)`` for the sampling loop: the model on ``labels`` with classifier-free guidance (Ho &
    Salimans 2022).

    ``model(x, t, y)`` returns (B, C or 2C, H, W). Guidance acts on the first ``channels`` output channels;
    the other noise channels and the learned variance are those of the conditional half, as in the original.
    At guidance 1.0 the null half is never computed.
    """
    if guidance == 1.0:
        return lambda x, t: model(x, t, labels)
    both_labels = torch.cat([labels, torch.full_like(labels, null)])

    def network(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), both_labels).chunk(2)
        towards, away = conditional[:, :channels], unconditional[:, :channels]
        return torch.cat([away + guidance * (towards - away), conditional[:, channels:]], dim=1)

    return network


def _demand_equal(first: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(first.named_parameters(), other.named_parameters(), strict=True):
        if not a.is_meta and not torch.equal(a, b):
            raise WeightsError(
                f"The blocks of this DiT carry different embedders ({name}), so it was trained with stock"
                " diffusers rather than converted from the original; retrain it with `diffadapt` or use its"
                " own pipeline."
            )
