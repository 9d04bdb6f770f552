"""``diffadapt predict``: a finished run's models as they are deployed: new images in, predictions out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from diffadapt.api.predict import LENIENT, Question
from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import StoreError
from diffadapt.core.predictions import NONE_OF_THESE
from diffadapt.run.runner import ExecutionConfig


@dataclass(frozen=True)
class PredictOptions(RootOption):
    images: tyro.conf.Positional[str] = ""
    """A folder, a glob, or a Parquet file or folder with an image column."""
    run: str = "last"
    """The finished run whose models to use: a name, a prefix, or 'last'."""
    row: str = ""
    """Of SDA: the row of the score table whose models, aligner and level to use, such as "SDA (one step, 1
    call)"; by default SDA's own."""
    out: str = ""
    """What to write. Classifiers: a Parquet file (default predictions.parquet) of path, label, class and
    confidence, of SDA those of the source, projected and ensemble predictions too. Segmenters: a new folder
    (default predictions) of label maps and overlays."""
    reject: Literal["none", "energy"] = "none"
    """energy: images whose free energy is above a limit are answered "(none of these)", with the columns
    ``energy`` and ``nearest``. Runs of Adapt Anything."""
    reject_tpr: float = 0.95
    """The limit is the energy that this part of the images of ``reject_by`` does not exceed."""
    reject_by: Literal["held-out", "target"] = "held-out"
    """held-out: source images that no training saw (--held-out of the run), and where there are none the
    target; target: the run's own target images, of which then 5 % are rejected whatever they show."""
    block: int = 256
    """Images a shard."""
    execution: ExecutionConfig = LENIENT
    """Images that cannot be read do not stop the others, unless a lower fraction is given."""


def predict(argv: Sequence[str]) -> int:
    from diffadapt.api.predict import answers, demand_images, failures_said, recipe_of
    from diffadapt.core.place import write_file
    from diffadapt.core.redact import redact
    from diffadapt.systems.predict_scenes import ScenePrediction

    options = parse(PredictOptions, argv, "predict")
    demand_images(options.images)
    root = options.open()
    model = root.run(options.run)
    question = Question(
        options.row,
        options.reject,
        options.reject_tpr,
        options.reject_by,
        options.block,
        options.execution,
    )
    recipe = recipe_of(model, options.images, question)
    if isinstance(recipe, ScenePrediction):
        from diffadapt.commands.predict_scenes import predict_scenes

        return predict_scenes(recipe, root, options.out, model.name)
    out = options.out or "predictions.parquet"
    _check_out(out)
    answer = answers(model, recipe, question, options.images)
    write_file(out, answer.data)
    print(f"{answer.count} predictions by {model.name} in {redact(out)}")
    if answer.limit is not None:
        print(
            f"{answer.rejected} of them are {NONE_OF_THESE}: their energy is above {answer.limit:.4g},"
            f" {answer.rule}"
        )
    if answer.failed:
        print(failures_said(answer.failed, answer.run.url), file=sys.stderr)
    return 0


def _check_out(out: str) -> None:
    """Fail before hours of work, not after."""
    from diffadapt.core.place import demand_writable

    if not out.endswith(".parquet"):
        raise StoreError(f"--out {out!r} must end in .parquet: predictions are written as Parquet.")
    demand_writable(out)
