"""The weight files of a folder, looked at without reading the weights: which variants there are, and whether
each file is whole. Knows no torch."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.errors import WeightsError

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[A-Za-z0-9_]+))?"
    r"(?:-\d{5}-of-\d{5})?(?:\.(?P<older>[A-Za-z0-9_]+))?\.(?:safetensors|bin)"
)
_NOT_MODELS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "ProcessorFast", "FeatureExtractor")
LARGEST_HEADER = 100 * 2**20


def variants(folder: Path) -> dict[str, list[Path]]:
    """The weight files of a model's folder by variant ('': the plain ones), as diffusers and transformers
    name them."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _NAME.fullmatch(file.name):
            found.setdefault(match["variant"] or match["older"] or "", []).append(file)
    return found


def demand_components(
    weights: str, folder: Path, components: Mapping[str, Any], variant: str, option: str
) -> None:
    """Raise WeightsError where a part that model_index.json names lacks its files, has them only in variants
    other than ``variant``, or has files that break off. ``option`` chooses the variant."""
    there: dict[str, dict[str, list[Path]]] = {}
    for name, kind in components.items():
        if not (isinstance(kind, list) and len(kind) == 2 and kind[1]):
            continue
        if not (folder / name).is_dir():
            raise WeightsError(
                f"{weights!r} has no folder {name}, which its model_index.json names: copy or download it"
                " whole."
            )
        model = not str(kind[1]).endswith(_NOT_MODELS) and not name.startswith(("tokenizer", "scheduler"))
        if model and (folder / name / "config.json").is_file():
            there[name] = variants(folder / name)
    for name, found in there.items():
        files = found.get(variant) or found.get("")
        if files is None:
            raise WeightsError(_without(weights, name, found, option))
        for file in files:
            demand_whole(file)
    if variant and not any(variant in found for found in there.values()):
        known = sorted({v for found in there.values() for v in found if v})
        raise WeightsError(
            f"{weights!r} has no files of the variant {variant!r}{_named(known)}: leave {option} out, or"
            " give a folder that was saved with it."
        )


def demand_whole(file: Path) -> None:
    """Raise WeightsError for a .safetensors or torch file that is empty, breaks off or is only a pointer to
    the weights."""
    with open(file, "rb") as handle:
        head = handle.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise WeightsError(
                f"{str(file)!r} is a pointer of Git LFS, not the weights: run `git lfs pull` in its"
                " repository, or download the file."
            )
        if file.suffix == ".safetensors":
            whole = _safetensors_end(handle, head) == file.stat().st_size
        else:
            # Files of torch before 1.6 are plain pickles, whose end cannot be told.
            whole = zipfile.is_zipfile(handle) if head.startswith(b"PK") else bool(head)
    if not whole:
        raise WeightsError(
            f"{str(file)!r} is damaged or not complete: copy or download it again ({file.stat().st_size:,}"
            " bytes are there)."
        )


def _safetensors_end(handle: Any, head: bytes) -> int:
    """Where a .safetensors file ends by its header; -1 where that cannot be read."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > LARGEST_HEADER:
        return -1
    handle.seek(8)
    try:
        header = json.loads(handle.read(length))
        return (
            8
            + length
            + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return -1


def _without(weights: str, name: str, found: Collection[str], option: str) -> str:
    if not found:
        return (
            f"{weights!r} has no weights in its folder {name} (diffusion_pytorch_model or model, .safetensors"
            " or .bin): copy or download it whole."
        )
    known = sorted(found)
    return (
        f"{weights!r} has the weights of {name} in the variant{'s' if len(known) > 1 else ''}"
        f" {', '.join(known)} alone: add --{option} {known[0]}."
    )


def _named(known: Collection[str]) -> str:
    return f" (it has {', '.join(known)})" if known else ""
