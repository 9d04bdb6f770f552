"""What the recipes of unsupervised adaptation check before anything is planned, because training would only
say so hours later."""

from __future__ import annotations

from collections.abc import Sequence

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.data.items import Source
from diffadapt.methods.ssl.config import SslTraining
from diffadapt.methods.uda.config import UdaTraining
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.run.runner import ExecutionConfig


def check_training(
    execution: ExecutionConfig,
    backbone: BackboneConfig,
    uda: UdaTraining,
    ssl: SslTraining | None,
    seeds: Sequence[int],
) -> None:
    """RecipeError for batches, seeds and channels that do not fit together; ``ssl`` None: there is no stage
    2."""
    workers = max(1, execution.train_workers)
    for name, config in (("uda", uda), ("ssl", ssl)):
        if config is None:
            continue
        if config.batch_size < 2 * workers:
            raise RecipeError(
                f"{name}.batch_size is {config.batch_size}{f' for {workers} workers' if workers > 1 else ''},"
                f" but batch normalisation needs at least two images a worker: use {2 * workers} or more."
            )
        if config.batch_size % workers:
            raise RecipeError(
                f"{name}.batch_size is {config.batch_size}, which {workers} workers cannot share evenly: use"
                " a multiple, or another --execution.train-workers."
            )
        if config.seed:
            raise RecipeError(
                f"{name}.seed is {config.seed}, but training is repeated with each of `seeds`: give --seeds"
                f" {config.seed} instead."
            )
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise RecipeError(f"seeds is {list(seeds)}: give at least one, each once, none negative.")
    for name in ("mean", "std"):
        values = getattr(backbone, name)
        if len(values) != backbone.in_channels:
            raise RecipeError(
                f"backbone.{name} has {len(values)} values but backbone.in_channels is"
                f" {backbone.in_channels}: give one value a channel."
            )


def check_labels(select: SelectConfig, target: Source | None, source: Source | None = None) -> None:
    """RecipeError for an oracle without a label of the target, DataError for a real source with images
    without one."""
    if select.rule == "oracle" and target is not None and all(item.label is None for item in target.items):
        raise RecipeError(
            "The selection rule 'oracle' needs target labels, and no target image has one: choose ensv, im or"
            " mixval, or give target.labels."
        )
    lacking = sum(item.label is None for item in source.items) if source is not None else 0
    if source is not None and lacking:
        raise DataError(
            f"{lacking:,} of {len(source.items):,} source images have no label: the source needs one for"
            " each, e.g. a sub-folder a class."
        )
