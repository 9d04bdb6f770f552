"""A finished run's models held open: images in, the answers of ``diffadapt predict`` out, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.predictions import ensemble_columns, image_path, prediction_columns
from diffadapt.core.record import predictions_by_key
from diffadapt.core.runs import Root, Run
from diffadapt.core.stage import WorkContext
from diffadapt.core.upload import Upload
from diffadapt.run.readers import readers_for
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.predict import (
    MODEL,
    PROJECTED,
    SOURCE,
    ModelPrediction,
    Prediction,
    from_run,
    rows_by_aligner,
)
from diffadapt.systems.predict_scenes import ScenePrediction

GROUP = "target/0"
"""What the keys of predicted images begin with; the noise of a projection is drawn by key."""


@dataclass(frozen=True)
class Opening:
    """Where a run's models are, as a value that travels to the process that opens them."""

    root: str
    run: str
    row: str = ""
    device: str = "cpu"
    threads: int = 1

    def __call__(self) -> Answers:
        from diffadapt.run.executor import choose_device, limit_threads

        if self.device == "cpu":
            limit_threads(self.threads)
        return Answers(
            servable(Root(self.root).run(self.run), self.row), choose_device(self.device), self.threads
        )


def servable(run: Run, row: str = "") -> Prediction | ModelPrediction:
    """The prediction of a finished run, without images. Raises what
    :func:`~diffadapt.systems.predict.from_run` raises, StoreError for a run whose model is no classifier, and
    RecipeError for a row whose aligner works on several images together."""
    recipe = from_run(run, "", ExecutionConfig(), 1, row)
    if isinstance(recipe, ScenePrediction):
        raise StoreError(
            f"The run {run.name} holds a segmenter, whose predictions are label maps, and serve answers with"
            f" classes: use `diffadapt predict --run {run.name} <images>`."
        )
    if isinstance(recipe, Prediction) and recipe.project.aligner.coupled:
        raise RecipeError(
            f"The projection of {run.name} guides several images together (align.guidance"
            f" {recipe.project.guidance}), so that an answer would depend on who else asks: choose another"
            " row with --row, or use `diffadapt predict`."
        )
    return recipe


class Answers:
    """``answers(images)`` -> a dict an image, in their order: a row of what ``diffadapt predict`` writes
    for a file of that name and content, or ``path`` and ``reason`` where it cannot be predicted.

    An answer does not depend on the others: the noise of a projection is that of the image's name. 16-bit
    samples are scaled by the image's own, where predict looks at the whole folder.
    """

    def __init__(self, recipe: Prediction | ModelPrediction, device: str, threads: int = 1):
        context = WorkContext(device, threads=threads, readers=readers_for(device, threads))
        self._names = recipe.class_names
        self._nodes = [n for n in recipe.pipeline().nodes if n.stage.stored]
        self._workers = {n.name: n.stage.open(context) for n in self._nodes}

    def __call__(self, images: Sequence[Upload]) -> list[dict[str, Any]]:
        """Raises ResourceError where memory does not suffice for one image."""
        answers: list[dict[str, Any]] = [{}] * len(images)
        left = list(range(len(images)))
        while left:  # rows are told apart by their names: twins go one after the other
            distinct = list({images[i][0]: i for i in reversed(left)}.values())
            found = self._distinct([images[i] for i in distinct])
            for i in distinct:
                answers[i] = found[images[i][0]]
            left = [i for i in left if i not in set(distinct)]
        return answers

    def _distinct(self, images: Sequence[Upload]) -> dict[str, dict[str, Any]]:
        keys = [f"{GROUP}/{name}" for name, _ in images]
        encoded = [_eight_bits(data, key) for key, (_, data) in zip(keys, images, strict=True)]
        blank: list[int | None] = [None] * len(keys)
        rows = {"images": Rows(image_table(keys, blank, encoded, [0] * len(keys), suffix=""))}
        for node in self._nodes:
            rows[node.name] = self._workers[node.name].run(
                Shard("served", {}), [rows[n] for n in node.inputs]
            )
        found = {n: predictions_by_key([rows[n]]) for n in (MODEL, SOURCE, PROJECTED) if n in rows}
        if MODEL in found:
            columns = prediction_columns(found[MODEL], self._names)
        else:
            columns = ensemble_columns(found[SOURCE], found[PROJECTED], self._names)
        answered = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        made: dict[str, dict[str, Any]] = {row["path"]: row for row in answered}
        for part in rows.values():
            for failure in part.failures:
                path = image_path(failure.key)
                made[path] = {"path": path, "reason": failure.reason.replace(f"{GROUP}/", "", 1)}
        return made


def _eight_bits(data: bytes, key: str) -> bytes:
    """16-bit samples as 8 bits; what cannot be read is left as it is, for whoever decodes it to say so."""
    from diffadapt.core.errors import ItemError
    from diffadapt.data.image import eight_bits
    from diffadapt.data.looks import look, total

    try:
        return eight_bits(data, key, lambda: total([look(data)]).depth)
    except ItemError:
        return data


def row_of(run: Run, aligner: str) -> str:
    """The row of an SDA run that projects with ``aligner``. RecipeError where there is none."""
    known = rows_by_aligner(run)
    if aligner not in known:
        has = f"It projects with {', '.join(known)}." if known else "It has no row that projects."
        raise RecipeError(f"No row of {run.name} projects with the aligner {aligner!r}. {has}")
    return known[aligner]
