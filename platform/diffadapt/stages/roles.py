"""Which input of a fit is what: images by their order, fitted folders by the stage that made them."""

from __future__ import annotations

from pathlib import Path

from diffadapt.core.artifact import Rows
from diffadapt.core.stage import FitJob, InputFile, WorkContext

KEPT = "kept.parquet"
"""The file with a filter's decisions."""
SPLIT, HELD_OUT, FILTERS = "split", "held-out", ("filter", "quality", "held-out")
"""Kinds of the stages that split a target by confidence, that hold source images out of training, and of all
that decide which images are kept."""
STUDENT = "student"
"""Kind of the stage that trains an aligner's student."""
CLASSIFIERS = ("classifier", "merged", "uda", "ssl")
"""Kinds of all stages that can leave a classifier folder."""


def row_inputs(job: FitJob) -> list[list[InputFile]]:
    """The shards of each input that is not fitted, input by input in the node's order."""
    result: dict[str, list[InputFile]] = {}
    for file in job.every_input():
        if not file.fitted:
            result.setdefault(file.node, []).append(file)
    return list(result.values())


def adapted(context: WorkContext) -> str:
    """The folder of the adapted network (a head where its backbone is frozen): what is neither a split nor a
    filter's decisions, so that a stage 1 of one's own may be of any kind."""
    return next(f for n, f in context.fitted.items() if context.kinds.get(n) not in (SPLIT, *FILTERS))


def kept_keys(context: WorkContext) -> set[str] | None:
    """Keys of the images that a filter kept; None without a filter."""
    folders = context.fitted_by(*FILTERS)
    if not folders:
        return None
    return {key for key, reason in decisions(folders[0]).items() if not reason}


def held_out_keys(context: WorkContext) -> set[str] | None:
    """Keys of the source images that are held out of training; None where none are."""
    folders = context.fitted_by(HELD_OUT)
    return {k for k, why in decisions(folders[0]).items() if why == HELD_OUT} if folders else None


def only(rows: Rows, keys: set[str] | None) -> Rows:
    """The rows of ``keys``, and what could not be made of them; all where ``keys`` is None."""
    if keys is None:
        return rows
    mask = [key in keys for key in rows.column("key")]
    return Rows(rows.table.filter(mask), [f for f in rows.failures if f.key in keys])


def decisions(folder: str) -> dict[str, str]:
    """Key -> why training goes without the image, empty where it does not, of a filter's or hold-out's
    folder."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(folder) / KEPT).to_pylist()
    return {row["key"]: "" if row["kept"] else row.get("reason") or "filtered" for row in rows}
