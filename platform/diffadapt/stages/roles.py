"""Which input of a fit is what: images by their order, fitted folders by the stage that made them."""

from __future__ import annotations

from pathlib import Path

from diffadapt.core.stage import FitJob, InputFile, WorkContext

KEPT = "kept.parquet"
"""The file with a filter's decisions."""
SPLIT, FILTERS = "split", ("filter", "quality")
"""Kinds of the stages that split a target by confidence, and of those that decide which images are kept."""
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
    import pyarrow.parquet as pq

    table = pq.read_table(Path(folders[0]) / KEPT)
    return {
        key
        for key, kept in zip(table.column("key").to_pylist(), table.column("kept").to_pylist(), strict=True)
        if kept
    }
