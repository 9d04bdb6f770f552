"""The parts of a pipeline folder, made without their weights and compared with what the weight files name:
what would be refused once it is loaded, or be random in silence. Of .safetensors files only the headers are
read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffadapt.core.errors import WeightsError
from diffadapt.core.foreign import parse
from diffadapt.models.classifier import weightless
from diffadapt.models.pretrained import from_pretrained
from diffadapt.models.state_dict import misfits, read_checkpoint
from diffadapt.models.weight_files import variants

LIBRARIES = ("diffusers", "transformers")


def look_at_part(weights: str, folder: Path, kind: tuple[str, str], variant: str = "") -> Any:
    """The configuration (attributes of diffusers' or transformers') of the part in ``folder``, whose
    ``kind`` is (library, class); None where it cannot be judged without its weights.

    Raises WeightsError for a class that the library does not have, a configuration that makes no network, and
    weights that lack tensors of it or have them in other shapes. What they hold beyond it is left out, as the
    libraries do. A tokenizer or scheduler is made outright.
    """
    library, name = kind
    cls = getattr(importlib.import_module(library), name, None) if library in LIBRARIES else None
    if cls is None and library in LIBRARIES:
        raise WeightsError(
            f"{weights!r} wants a {name}, which the installed version of {library} does not have: install one"
            " that has it, or give other weights."
        )
    if cls is None:
        return None
    is_network = isinstance(cls, type) and issubclass(cls, torch.nn.Module)
    try:
        if not is_network:
            _demand_vocabulary(cls, folder)
            return getattr(from_pretrained(cls, str(folder)), "config", None)
        values = parse((folder / "config.json").read_bytes())
        if "quantization_config" in values:
            return None
        look = _of_diffusers if library == "diffusers" else _of_transformers
        config, found = look(cls, folder, _shapes(folder, variant))
    except WeightsError:
        raise
    except Exception as error:  # what the libraries raise for a setting that they cannot use has no base
        what = "config.json" if is_network else "files"
        raise WeightsError(
            f"No {name} can be made of the {what} in {str(folder)!r} ({_first_line(error)}): copy or download"
            " them again, or give other weights."
        ) from error
    if found:
        raise WeightsError(
            f"The weights in {str(folder)!r} do not fit the {name} of their config.json: {found}; copy or"
            " download the folder whole, or give other weights."
        )
    return config


def _demand_vocabulary(cls: Any, folder: Path) -> None:
    """Some versions of transformers make a tokenizer without its words."""
    names = getattr(cls, "vocab_files_names", {})
    needed = [names[k] for k in ("vocab_file", "merges_file") if k in names]
    lost = [name for name in needed if not (folder / name).is_file()]
    if lost and not (folder / names.get("tokenizer_file", "tokenizer.json")).is_file():
        raise FileNotFoundError(f"there is no {lost[0]}")


def _shapes(folder: Path, variant: str) -> dict[str, torch.Tensor]:
    found = variants(folder)
    files = found.get(variant) or found.get("") or []
    safe = [f for f in files if f.suffix == ".safetensors"]
    state: dict[str, torch.Tensor] = {}
    for file in safe or files:
        state |= read_checkpoint(str(file), shapes_only=True).state
    return state


def _of_diffusers(cls: Any, folder: Path, state: dict[str, torch.Tensor]) -> tuple[Any, str]:
    model = weightless(lambda: cls.from_config(cls.load_config(str(folder))))
    renamed = getattr(model, "_fix_state_dict_keys_on_load", None)  # names of older versions
    if renamed is not None:
        renamed(state)
    own = model.state_dict()
    shapes = [(k, state[k].shape, own[k].shape) for k in own if k in state and state[k].shape != own[k].shape]
    return model.config, misfits([k for k in own if k not in state], (), shapes)


def _of_transformers(cls: Any, folder: Path, state: Mapping[str, torch.Tensor]) -> tuple[Any, str]:
    """By the library's own loading, which knows of tied, renamed and optional tensors: of tensors that take
    no memory."""
    hollow = {k: torch.zeros((), dtype=torch.float32).expand(v.shape) for k, v in state.items()}
    config = from_pretrained(cls.config_class, str(folder))
    model, info = from_pretrained(
        cls, None, config=config, state_dict=hollow, output_loading_info=True,
        ignore_mismatched_sizes=True, torch_dtype=torch.float32,
    )  # fmt: skip
    return model.config, misfits(sorted(info["missing_keys"]), (), sorted(info["mismatched_keys"]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
