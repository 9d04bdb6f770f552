"""Turn the DiT authors' checkpoint (DiT-XL-2-256x256.pt and its kin) into a diffusers DiTPipeline folder,
with a self-check."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors import SafetensorError
from torch import Tensor

from diffadapt.core.errors import WeightsError
from diffadapt.core.files import file_sha256
from diffadapt.core.foreign import parse
from diffadapt.core.place import new_folder
from diffadapt.models.diffusers_folder import (
    load_component,
    save_component,
    save_scheduler,
    write_model_index,
)
from diffadapt.models.dit import build_dit, learns_sigma, make_exact, save_dit
from diffadapt.models.importers.dit_reference import dit_forward
from diffadapt.models.importers.shared import deviation, load_checkpoint
from diffadapt.models.state_dict import strip_prefixes

HEADS_BY_WIDTH = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Attention heads of the published XL, L, B and S networks; shapes alone do not tell them."""

SELF_CHECK_GATE = 1e-4
POSITION_GATE = 1e-3  # the table is exact in float32 files; files stored in float16 round it by up to 5e-4

_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


@dataclass(frozen=True)
class DiTImportReport:
    """What an import did: ``parameters`` with shared embedders, and the self-check's largest deviation
    relative to the largest output, from an independent forward pass of the original network."""

    folder: str
    config: dict[str, Any]
    parameters: int
    max_relative_error: float
    source_sha256: str


def infer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The original's configuration from tensor shapes (``num_heads`` None when the width is not a published
    one)."""
    needed = (
        "x_embedder.proj.weight",
        "y_embedder.embedding_table.weight",
        "final_layer.linear.weight",
        "pos_embed",
    )
    absent = [key for key in needed if key not in state]
    if absent:
        raise WeightsError(
            f"This is not a DiT checkpoint of the original authors' form: {', '.join(absent)} missing among"
            f" its {len(state)} keys; give the file as published, e.g. DiT-XL-2-256x256.pt."
        )
    hidden, in_channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = [
        int(key.split(".")[1]) for key in state if key.startswith("blocks.") and key.split(".")[1].isdigit()
    ]
    out_channels = state["final_layer.linear.weight"].shape[0] // patch**2
    return {
        "input_size": math.isqrt(state["pos_embed"].shape[1]) * patch,
        "patch_size": patch,
        "in_channels": in_channels,
        "hidden_size": hidden,
        "depth": max(blocks, default=-1) + 1,
        "num_heads": HEADS_BY_WIDTH.get(hidden),
        "num_classes": state["y_embedder.embedding_table.weight"].shape[0] - 1,
        "learn_sigma": out_channels == 2 * in_channels,
    }


def dit_from_original(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> DiTTransformer2DModel:
    """The exact float32 network for an original state dict.

    ``config`` (the original's names: num_heads, depth, ...) overrides what the shapes say; it is needed for
    ``num_heads`` of widths other than 1152, 1024, 768 and 384. Raises WeightsError naming missing or
    unexpected keys and wrong shapes.
    """
    settings = {**infer_config(state_dict), **{k: v for k, v in (config or {}).items() if v is not None}}
    if not settings["num_heads"]:
        raise WeightsError(
            f"The number of attention heads of a DiT of width {settings['hidden_size']} cannot be read from"
            " its shapes; pass num_heads in the configuration."
        )
    with torch.device("meta"):
        model = build_dit(**_diffusers_config(settings))
    mapped, unexpected = _map_keys(state_dict)
    _check(model, mapped, unexpected)
    model.load_state_dict(mapped, assign=True)
    _install_positions(model, state_dict["pos_embed"].float(), settings)
    return model.requires_grad_(False).eval()


def import_dit(
    checkpoint: str | Path,
    out_folder: str | Path,
    vae: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> DiTImportReport:
    """Convert ``checkpoint`` (.pt or .safetensors) into ``out_folder``: model_index.json, transformer/,
    scheduler/, vae/.

    ``vae``: a folder (an AutoencoderKL, or a pipeline with vae/) or hub id that is copied in; None leaves it
    out. After the conversion the saved network is read back and compared with
    :func:`diffadapt.models.importers.dit_reference.dit_forward`; a deviation above 1e-4 relative raises
    WeightsError.
    """
    state, metadata = read_checkpoint(checkpoint)
    try:
        settings = {**parse(metadata.get("config", "{}")), **(config or {})}
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"The metadata of {checkpoint} are damaged ({error}): save the checkpoint again without them."
        ) from None
    model = dit_from_original(state, settings)
    if class_names is not None and len(class_names) != model.config.num_embeds_ada_norm:
        raise WeightsError(
            f"{len(class_names)} class names were given but the checkpoint has"
            f" {model.config.num_embeds_ada_norm} classes; pass one name a class, in label order."
        )
    out = Path(out_folder)
    with new_folder(out) as scratch:
        made = Path(scratch)
        save_dit(model, made / "transformer")
        save_scheduler(made, learn_sigma=learns_sigma(model), clip_sample=False)
        if vae is not None:
            copy_vae(vae, made / "vae")
        write_model_index(made, "DiTPipeline", has_vae=vae is not None, class_names=class_names)
        error = self_check(state, made / "transformer", model.config.num_attention_heads)
        if not error <= SELF_CHECK_GATE:
            raise WeightsError(
                f"The converted network deviates by {error:.1e} from the original (gate"
                f" {SELF_CHECK_GATE:.0e}), so nothing was written: check that num_heads is right for this"
                " checkpoint."
            )
    parameters = sum(p.numel() for p in model.parameters())
    shown = {name: value for name, value in model.config.items() if not name.startswith("_")}
    digest = file_sha256(Path(checkpoint).expanduser())
    return DiTImportReport(str(out), shown, parameters, error, digest)


def self_check(state: Mapping[str, Tensor], transformer_folder: str | Path, num_heads: int) -> float:
    """Largest deviation, relative to the largest output, of the saved network from the original on random
    input; the original has the exact table of positions, which files in float16 round."""
    model = make_exact(load_component(DiTTransformer2DModel, str(transformer_folder)))
    size, classes = model.config.sample_size, model.config.num_embeds_ada_norm
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, model.config.in_channels, size, size, generator=g)
    t = torch.tensor([0, 499, 999])
    y = torch.tensor([0, classes - 1, classes])
    with torch.no_grad():
        positions: Any = model.pos_embed.pos_embed
        exact = {**{k: v.float() for k, v in state.items()}, "pos_embed": positions}
        expected = dit_forward(exact, x, t, y, num_heads)
        return deviation(model(x, t, y).sample, expected, 1e-12)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors or .pt file; a training checkpoint's ``ema`` (else ``model``)
    part is taken."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"There is no checkpoint at {path}; download DiT-XL-2-256x256.pt from the DiT authors' page"
            " first."
        )
    try:
        state, metadata = load_checkpoint(path)
        if metadata is not None:
            return state, metadata
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} cannot be read: it is damaged or holds Python objects beside tensors, which are not"
            " unpickled for safety; get it again, or save its state_dict alone as safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of plain tensors ({str(error).splitlines()[0]});"
            " re-download or re-save it."
        ) from error
    for nested in ("ema", "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
            break
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} does not hold a dictionary of tensors; give a DiT state dict.")
    return strip_prefixes(state), {}


def copy_vae(vae: str, out: Path) -> None:
    """Save the AutoencoderKL found at ``vae`` (folder, pipeline folder, or hub id) into ``out``."""
    inner = "vae" if (Path(vae) / "vae" / "config.json").is_file() else None
    save_component(load_component(AutoencoderKL, vae, inner), out)


def _diffusers_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    heads, hidden = settings["num_heads"], settings["hidden_size"]
    if hidden % heads:
        raise WeightsError(
            f"A DiT of width {hidden} cannot have {heads} attention heads; pass a num_heads that divides the"
            " width."
        )
    return {
        "num_attention_heads": heads,
        "attention_head_dim": hidden // heads,
        "in_channels": settings["in_channels"],
        "out_channels": settings["in_channels"] * (2 if settings["learn_sigma"] else 1),
        "num_layers": settings["depth"],
        "sample_size": settings["input_size"],
        "patch_size": settings["patch_size"],
        "num_embeds_ada_norm": settings["num_classes"],
    }


def _map_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """diffusers names -> float32 tensors (the embedders under block 0), and the keys that no rule covers."""
    mapped: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        tensor = value.float()
        if key == "pos_embed":
            continue
        if stem in _TOP:
            mapped[f"{_TOP[stem]}.{leaf}"] = tensor
        elif stem in _EMBEDDERS:
            mapped[f"transformer_blocks.0.norm1.emb.{_EMBEDDERS[stem]}.{leaf}"] = tensor
        elif key.startswith("blocks.") and stem.split(".", 2)[-1] in _BLOCK:
            _, index, inner = stem.split(".", 2)
            mapped[f"transformer_blocks.{index}.{_BLOCK[inner]}.{leaf}"] = tensor
        elif key.startswith("blocks.") and stem.endswith("attn.qkv"):
            index = stem.split(".")[1]
            for name, part in zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True):
                mapped[f"transformer_blocks.{index}.attn1.{name}.{leaf}"] = part.contiguous()
        else:
            unexpected.append(key)
    return mapped, unexpected


def _check(model: DiTTransformer2DModel, mapped: Mapping[str, Tensor], unexpected: Sequence[str]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    extra = list(unexpected) + [name for name in mapped if name not in wanted]
    missing = [name for name in wanted if name not in mapped]
    wrong = [
        f"{name} is {tuple(mapped[name].shape)}, wanted {shape}"
        for name, shape in wanted.items()
        if name in mapped and tuple(mapped[name].shape) != shape
    ]
    found = [("missing", missing), ("unexpected", extra), ("of the wrong shape", wrong)]
    if any(names for _, names in found):
        parts = [f"{len(names)} {word} (e.g. {', '.join(names[:3])})" for word, names in found if names]
        raise WeightsError(f"The checkpoint does not fit a DiT of this configuration: {'; '.join(parts)}.")


def _install_positions(model: DiTTransformer2DModel, table: Tensor, settings: Mapping[str, Any]) -> None:
    """Put real tensors where the meta device left none, and require the fixed sine-cosine table that
    diffusers computes."""
    computed = DiTTransformer2DModel(
        **{**_diffusers_config(settings), "num_layers": 1, "num_embeds_ada_norm": 1}
    ).pos_embed.pos_embed
    if table.shape != computed.shape or float((table - computed).abs().max()) > POSITION_GATE:
        raise WeightsError(
            "The checkpoint's pos_embed is not the fixed sine-cosine table of the published DiT; diffusers"
            " cannot represent a learned one."
        )
    model.pos_embed.pos_embed = computed
