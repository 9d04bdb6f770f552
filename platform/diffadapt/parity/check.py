"""Checks of this package against numbers from reference implementations, for any folder of such files (doctor
--parity).

A family is a module with ``checks(file, siblings)``: it recognises a file by its keys and shapes, never by
name or known sizes, and yields rows. To add one, write the module and name it in FAMILIES.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from diffadapt.core.errors import DataError

FAMILIES = (
    "diffadapt.parity.sda",
    "diffadapt.parity.uda",
    "diffadapt.parity.cdtrans",
    "diffadapt.parity.ssl",
    "diffadapt.parity.validators",
    "diffadapt.parity.zodi",
    "diffadapt.parity.zodi_transfer",
    "diffadapt.parity.zodi_networks",
)
"""Modules asked in this order; one that is not installed is passed over, and its files are then reported as
unknown."""

FLOAT_GATE = 1e-5
UINT8_GATE = 1.0
EXACT_GATE = 0.5
"""Integers that must be equal: any difference is at least 1."""


@dataclass(frozen=True)
class ParityRow:
    """One check of one file: the largest deviation, the gate, and whether it is kept."""

    file: str
    check: str
    max_deviation: float
    gate: float
    ok: bool
    note: str = ""


@dataclass
class NumberFile:
    """A file of reference numbers. ``arrays`` are read on first use; float16 comes as stored."""

    path: Path
    name: str
    metadata: dict[str, str] = field(default_factory=dict)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        if self.path.suffix == ".npz":
            with np.load(self.path, allow_pickle=False) as data:
                return {k: data[k] for k in data.files}
        from safetensors import safe_open

        with safe_open(self.path, framework="np") as handle:
            self.metadata = handle.metadata() or {}
            return {k: handle.get_tensor(k) for k in handle.keys()}


def run_parity(folder: str | Path) -> list[ParityRow]:
    """Every check that applies to the number files (.npz, .safetensors) under ``folder``, in the order of
    their names.

    A file that no family recognises, that is unreadable, or whose check fails to run gives a row that is not
    ok; notes (other suffixes) give a row that says so. Raises DataError when there is no such folder or no
    file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(
            f"There is no folder {str(folder)!r} with parity numbers; give the folder that holds the .npz and"
            " .safetensors files."
        )
    paths = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not paths:
        raise DataError(
            f"The folder {str(folder)!r} is empty; give the folder that holds the .npz and .safetensors"
            " files."
        )
    families = [importlib.import_module(name) for name in FAMILIES if importlib.util.find_spec(name)]
    rows: list[ParityRow] = []
    readable: dict[Path, NumberFile] = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.suffix not in (".npz", ".safetensors"):
            note = path.suffix in (".md", ".txt", ".json")
            rows.append(ParityRow(name, "notes, no numbers" if note else "unknown", math.nan, math.nan, note))
            continue
        file = NumberFile(path, name)
        try:
            _ = file.arrays
            readable[path] = file
        except Exception as error:  # zip, header and type errors share no base class
            rows.append(failed(name, "readable", error))
    for path, file in readable.items():
        siblings = [other for at, other in readable.items() if at.parent == path.parent]
        rows += _rows(file, siblings, families)
    return sorted(rows, key=lambda row: row.file)


def _rows(file: NumberFile, siblings: Sequence[NumberFile], families: Sequence) -> list[ParityRow]:
    rows: list[ParityRow] = []
    for family in families:
        try:
            rows += family.checks(file, siblings)
        except Exception as error:  # a check that cannot run is a finding, not the end of the others
            rows.append(failed(file.name, family.__name__.rpartition("_")[2], error))
    unknown = ParityRow(file.name, "unknown", math.nan, math.nan, False, "no family recognises its keys")
    return rows or [unknown]


def failed(name: str, check: str, error: BaseException) -> ParityRow:
    """The row of a check that could not be run."""
    return ParityRow(name, check, math.nan, math.nan, False, f"{type(error).__name__}: {error}")


def compare(
    file: NumberFile,
    check: str,
    got: np.ndarray,
    wanted: np.ndarray,
    gate: float = FLOAT_GATE,
    note: str = "",
) -> ParityRow:
    """The largest absolute deviation, relative to the largest wanted magnitude where that exceeds 1.

    Shapes that differ, NaN and infinity are not ok.
    """
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape:
        return ParityRow(file.name, check, math.nan, gate, False, f"shape {got.shape}, not {wanted.shape}")
    if not wanted.size:
        return ParityRow(file.name, check, math.nan, gate, False, "nothing to compare")
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    scale = 1.0 if wanted.dtype.kind in "iub" else max(1.0, float(np.abs(b).max()))
    deviation = float(np.abs(a - b).max()) / scale
    return ParityRow(file.name, check, deviation, gate, deviation <= gate, note)


def groups(arrays: dict[str, np.ndarray], *needed: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Every prefix P such that ``P.name`` exists for all ``needed`` names, with that prefix's arrays."""
    prefixes = sorted({k.rpartition(".")[0] for k in arrays if "." in k})
    for prefix in prefixes:
        own = {k[len(prefix) + 1 :]: v for k, v in arrays.items() if k.startswith(prefix + ".")}
        if all(name in own for name in needed):
            yield prefix, own
