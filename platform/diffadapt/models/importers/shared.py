"""What importers of published checkpoints share: reading plain tensors, comparing with a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from diffadapt.models.state_dict import unpickled


def load_checkpoint(file: Path, *, mmap: bool = False) -> tuple[Any, dict[str, str] | None]:
    """(tensors by name, metadata) of a .safetensors file; (what torch unpickles safely, None) of another.

    Raises what the libraries raise for a damaged file, UnpicklingError for one with other Python objects.
    """
    if file.suffix != ".safetensors":
        return unpickled(str(file), mmap), None
    with safe_open(str(file), framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata() or {}


def deviation(ours: torch.Tensor, reference: torch.Tensor, floor: float = 0.0) -> float:
    """Largest difference of two outputs, relative to the largest output of the reference (at least ``floor``:
    without one, an output of zeros alone gives NaN)."""
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=floor))
