"""A finished run's models as they are deployed: new images in, predictions out."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from diffadapt.api import runners
from diffadapt.api.calls import called
from diffadapt.api.places import Place, open_root
from diffadapt.api.progress import progress_of
from diffadapt.api.run import Run
from diffadapt.core.errors import DataError, RecipeError, StoreError
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root
from diffadapt.core.runs import Run as Folder
from diffadapt.run.progress import Progress
from diffadapt.run.runner import ExecutionConfig

if TYPE_CHECKING:
    import pandas as pd

    from diffadapt.systems.predict import ModelPrediction, Prediction
    from diffadapt.systems.predict_scenes import ScenePrediction

LENIENT = ExecutionConfig(max_failed_fraction=1.0)
"""Images that cannot be read do not stop the others."""


@dataclass(frozen=True)
class Question:
    """What a prediction is asked for. ``row``: of SDA, whose models and aligner; ``reject``: energy: images
    above a limit are of none of the classes, that limit being what the part ``reject_tpr`` of the images of
    ``reject_by`` does not exceed; ``block``: images a shard."""

    row: str = ""
    reject: Literal["none", "energy"] = "none"
    reject_tpr: float = 0.95
    reject_by: Literal["held-out", "target"] = "held-out"
    block: int = 256
    execution: ExecutionConfig = LENIENT


@dataclass(frozen=True)
class Answer:
    """``data``: predictions as Parquet; ``run``: the run folder of the prediction; ``failed``: path -> reason
    of images without one; ``rejected`` of ``count`` are above ``limit``, which ``rule`` gave (None: no
    limit)."""

    data: bytes
    count: int
    run: Folder
    failed: Mapping[str, str] = field(default_factory=dict)
    rejected: int = 0
    limit: float | None = None
    rule: str = ""


@called
def predict(
    run: Run | str,
    images: Any,
    *,
    root: Place | None = None,
    row: str = "",
    reject: Literal["none", "energy"] = "none",
    runner: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What the models of a finished run say of new images: a row an image, of a list in its order, with path,
    label, class and confidence, of SDA those of the source, projected and ensemble predictions too.

    ``run``: a :class:`Run`, or with ``root`` a name, a prefix or 'last'. ``images``: a folder, a glob, a
    Parquet file, a Dataset of Hugging Face or what :func:`from_dataset` gives, or a list of files, encoded
    bytes, Pictures, PIL images or uint8 arrays. ``row``: of SDA, another row's models
    and aligner. ``reject``: energy: images of no listed class are answered "(none of these)". Images that
    cannot be read have a ``reason`` and no class.

    Raises StoreError for a run without a model that predicts classes, DataError where no image can be read.
    """
    import pandas as pd

    from diffadapt.core.config import override

    if not isinstance(run, (Run, str)):
        raise StoreError(f"A value of the type {type(run).__name__} is no run: give one of da.runs(root).")
    folder = run.folder if isinstance(run, Run) else open_root(root).run(run)
    folder.manifest()  # in one sentence where it did not come to its end
    place, names = _place(images, folder.root)
    execution = LENIENT if runner is None else override(LENIENT, {"runner": runner})
    question = Question(row=row, reject=reject, execution=execution)
    asked = recipe_of(folder, place, question)
    demand_classes(asked, folder)
    with progress_of(progress) as shown:
        answer = answers(folder, asked, question, place, shown)
    found = pd.read_parquet(io.BytesIO(answer.data))
    if names:  # in the order in which they were given
        place_of = {key: i for i, key in enumerate(names)}
        found = found.sort_values("path", key=lambda p: p.map(place_of), ignore_index=True)
        found["path"] = [names.get(p, p) for p in found["path"]]
    return found


def _place(images: Any, root: Root) -> tuple[str, Mapping[str, str]]:
    """(one place that is read, path in it -> path as it was given) of ``images``."""
    if isinstance(images, (str, os.PathLike)):
        return os.fspath(images), {}
    from diffadapt.api.datasets import from_dataset, from_images

    library = sys.modules.get("datasets")
    if library is not None and isinstance(images, library.Dataset):
        return from_dataset(images, root=root).path, {}
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise DataError(
            f"Images cannot be taken from a value of the type {type(images).__name__}: give a folder, a glob,"
            " a Parquet file or a list of images."
        )
    return from_images(list(images), root)


def demand_classes(asked: Any, run: Folder) -> None:
    """StoreError for the recipe of a segmenter, whose predictions are label maps."""
    from diffadapt.systems.predict_scenes import ScenePrediction

    if isinstance(asked, ScenePrediction):
        raise StoreError(
            f"The run {run.name} holds a segmenter, whose predictions are label maps in a folder: `diffadapt"
            f" predict --run {run.name} <images> --out <folder>`."
        )


def demand_images(images: str) -> None:
    """DataError where none are named."""
    if not images:
        raise DataError("Give the images to predict: a folder, a glob or a Parquet file.")


def recipe_of(run: Folder, images: str, question: Question) -> Prediction | ModelPrediction | ScenePrediction:
    """The prediction recipe of a finished run. RecipeError for a question that it cannot be asked."""
    from diffadapt.systems.predict import ModelPrediction, from_run

    demand_images(images)
    recipe = from_run(run, images, question.execution, question.block, question.row)
    if question.reject != "none" and not isinstance(recipe, ModelPrediction):
        raise RecipeError(
            f"--reject {question.reject} is for one adapted classifier, and {run.name} is no run of Adapt"
            " Anything:"
            " leave it out."
        )
    return recipe


def answers(
    model: Folder, recipe: Any, question: Question, images: str, progress: Progress | None = None
) -> Answer:
    """Predict, or serve from the store. DataError where none of ``images`` can be predicted."""
    from diffadapt.core.predictions import (
        ensemble_parquet,
        failed_images,
        predictions_parquet,
        with_failures,
    )
    from diffadapt.run.drive import drive
    from diffadapt.run.held_out import stored
    from diffadapt.systems.predict import MODEL, PROJECTED, SOURCE

    root = model.root
    limit, rule = _limit(model, question) if question.reject == "energy" else (None, "")
    pipeline = recipe.pipeline()
    plans = pipeline.plan(root.store)
    run = drive(
        "predict",
        recipe,
        replace(pipeline, planned=plans),
        root,
        lambda: runners.make_runner(runners.for_work(question.execution, plans)),
        progress=progress,
    )
    nodes, load = run.manifest()["nodes"], stored(run)
    found = {n: load(n) for n in (MODEL, SOURCE, PROJECTED) if n in nodes}
    rejected = 0
    if MODEL in found and limit is not None:
        energies = _energies(found[MODEL])
        rejected = sum(e > limit for e in energies.values())
        data = predictions_parquet(found[MODEL], recipe.class_names, energies, limit)
        count = len(energies)
    elif MODEL in found:
        count, data = len(found[MODEL]), predictions_parquet(found[MODEL], recipe.class_names)
    else:
        count = len(found[SOURCE].keys() & found[PROJECTED].keys())
        data = ensemble_parquet(found[SOURCE], found[PROJECTED], recipe.class_names)
    failed = failed_images(nodes)
    if not count and failed:
        raise DataError(nothing_read(images, failed))
    return Answer(with_failures(data, failed), count, run, failed, rejected, limit, rule)


def nothing_read(images: str, failed: Mapping[str, str]) -> str:
    """The sentence for images of which none could be predicted; ``failed``: path -> reason."""
    path, reason = next(iter(failed.items()))
    return (
        f"None of the {len(failed):,} images of {redact(images)} can be predicted; the first, {path}:"
        f" {reason}"
    )


def failures_said(failed: Mapping[str, str], place: str) -> str:
    """The sentence for images that were left out; ``place``: the run folder."""
    one = len(failed) == 1
    return (
        f"{len(failed):,} image{'' if one else 's'} could not be read: the table and"
        f" {redact(place)}/quarantine.jsonl name {'it' if one else 'them'} and say why."
    )


def _limit(run: Folder, options: Question) -> tuple[float, str]:
    """The energy above which images are rejected, and which rule gave it. Raises DiffadaptError."""
    from diffadapt.run.held_out import held_out_nodes, model_of, stored
    from diffadapt.run.other_classes import rule

    if not 0 < options.reject_tpr < 1:
        raise RecipeError(
            f"--reject-tpr is {options.reject_tpr:g}, but it must lie between 0 and 1, such as 0.95."
        )
    manifest = run.manifest()
    nodes, node = manifest["nodes"], manifest["outputs"].get("predictions")
    if node is None:
        raise StoreError(
            f"The run {run.name} holds no predictions of the model that predict applies, so no limit of the"
            " energy"
            " can be taken from it: --reject energy is for runs of Adapt Anything."
        )
    load = stored(run)
    held_out = held_out_nodes(nodes).get(model_of(nodes, node)) if options.reject_by == "held-out" else None
    limit, where, count = rule(load(node), load(held_out) if held_out else None, options.reject_tpr)
    return limit, f"which {100 * options.reject_tpr:g} % of {count:,} {where} do not exceed"


def _energies(predictions: Mapping[str, Any]) -> dict[str, float]:
    import numpy as np

    from diffadapt.metrics.rejection import energy

    if not predictions:
        return {}
    values = energy(np.stack([logits for _, logits in predictions.values()]))
    return dict(zip(predictions, values.tolist(), strict=True))
