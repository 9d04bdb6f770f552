"""Which input of a fit is what: images by their order, fitted folders by what lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffadapt.core.stage import FitJob, InputFile

CLASSIFIER, HEAD, KEPT, SPLIT = "config.json", "head.json", "kept.parquet", "split.parquet"
"""The file that tells a fitted folder: a classifier, a head for cached features, a filter's decisions, a
split of the target."""


def row_inputs(job: FitJob) -> list[list[InputFile]]:
    """The shards of each input that is not fitted, input by input in the node's order."""
    found: dict[str, list[InputFile]] = {}
    for file in job.every_input():
        if not file.fitted:
            found.setdefault(file.node, []).append(file)
    return list(found.values())


def fitted_with(job: FitJob, name: str) -> list[str]:
    """The local folders among the fitted inputs that hold a file ``name``, in the node's order."""
    return list(fitted_folders(job, name).values())


def fitted_folders(job: FitJob, name: str) -> dict[str, str]:
    """The same by node name."""
    return {node: folder for node, folder in job.context.fitted.items() if (Path(folder) / name).is_file()}


def kept_keys(folders: Sequence[str]) -> set[str] | None:
    """Keys of the images that a filter kept; None without a filter."""
    if not folders:
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(Path(folders[0]) / KEPT)
    return {
        key
        for key, kept in zip(table.column("key").to_pylist(), table.column("kept").to_pylist(), strict=True)
        if kept
    }
