"""A Stable Diffusion checkpoint in one file (.safetensors, .ckpt), as its authors and web interfaces write
them, as a diffusers pipeline folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from diffadapt.core.errors import WeightsError
from diffadapt.core.files import scratch
from diffadapt.core.foreign import parse
from diffadapt.core.place import new_folder
from diffadapt.models.pretrained import INDEX, pipeline_of_file
from diffadapt.models.state_dict import read_checkpoint

SETTINGS = ["*.json", "*.txt", "*.model"]
"""What a file lacks: settings of the parts, and the tokenizer's words."""


def import_single_file(checkpoint: str, out_folder: str | Path, config: str = "") -> str:
    """Write the pipeline of ``checkpoint`` to ``out_folder`` and return its class's name.

    ``config``: a pipeline folder of the same kind, whose settings and tokenizer are taken, with weights or
    without; empty: that of the published model from the hub's cache, or from the hub where there is a
    network. Raises WeightsError.
    """
    folder = config or _published(checkpoint)
    try:
        name = str(parse((Path(folder) / INDEX).read_bytes())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            f"{folder!r} has no {INDEX} with a pipeline's name: give a diffusers pipeline folder of the"
            " checkpoint's kind with --config."
        ) from None
    kind = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise WeightsError(f"A {name} is not made of a single file: give the folder of another pipeline.")
    try:
        with _tensors(checkpoint) as file:
            pipe = pipeline_of_file(kind, file, folder, torch_dtype=torch.float32)
    except WeightsError:
        raise
    except Exception as error:  # diffusers raises many unrelated types for files of another kind
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{checkpoint!r} does not fit the pipeline of {folder!r} ({line.rstrip('.')}): give the folder of"
            " the model that it was trained from with --config."
        ) from error
    lost = [n for n, part in pipe.components.items() if _empty(part)]
    if lost:
        raise WeightsError(
            f"{checkpoint!r} lacks weights of {', '.join(lost)}, which the pipeline of {folder!r} has: give"
            " the folder of the model that it was trained from with --config."
        )
    with new_folder(out_folder) as made:
        pipe.save_pretrained(made, safe_serialization=True)
        for file in Path(made).rglob("*.safetensors"):
            file.chmod(0o644)
    return name


def _empty(part: Any) -> bool:
    """Whether a network has parameters that were made and never filled."""
    return isinstance(part, torch.nn.Module) and any(p.is_meta for p in part.parameters())


@contextmanager
def _tensors(checkpoint: str) -> Iterator[str]:
    """The checkpoint as a .safetensors file; another is read safely and written anew."""
    if checkpoint.lower().endswith(".safetensors"):
        yield checkpoint
        return
    state = {k: v.contiguous().clone() for k, v in read_checkpoint(checkpoint).state.items()}
    with scratch("single-file") as folder:
        file = str(Path(folder) / "model.safetensors")
        save_file(state, file)
        del state
        yield file


def _published(checkpoint: str) -> str:
    """The folder with the settings of the model that a checkpoint's names and shapes tell."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    repo = fetch_diffusers_config(read_checkpoint(checkpoint, shapes_only=True).state)
    place, below = repo["pretrained_model_name_or_path"], repo.get("subfolder", "")
    try:
        return str(Path(snapshot_download(place, allow_patterns=SETTINGS)) / below)
    except Exception as error:  # the hub client raises many unrelated types when it is offline
        words = " ".join(f"'{pattern}'" for pattern in SETTINGS)
        raise WeightsError(
            f"{checkpoint!r} looks like a model of the kind of {place}, whose settings and tokenizer are not"
            f" in the file and not at hand: run `hf download {place} --include {words} --local-dir settings`"
            " where there is a network (a few MB), and give that folder with --config."
        ) from error
