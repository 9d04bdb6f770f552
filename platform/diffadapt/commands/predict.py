"""``diffadapt predict``: a finished run's models as they are deployed: new images in, predictions out."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.predictions import NONE_OF_THESE
from diffadapt.core.runs import Run
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
    execution: ExecutionConfig = ExecutionConfig(max_failed_fraction=1.0)
    """Images that cannot be read do not stop the others, unless a lower fraction is given."""


def predict(argv: Sequence[str]) -> int:
    from diffadapt.commands.common import failures_said, make_runner, nothing_read
    from diffadapt.core.errors import DataError
    from diffadapt.core.place import write_file
    from diffadapt.core.predictions import failed_images, predictions_parquet, with_failures
    from diffadapt.core.record import predictions_by_key
    from diffadapt.core.redact import redact
    from diffadapt.run.drive import drive
    from diffadapt.systems.predict import MODEL, PROJECTED, SOURCE, ModelPrediction, from_run
    from diffadapt.systems.predict_scenes import ScenePrediction

    options = parse(PredictOptions, argv, "predict")
    if not options.images:
        raise DataError("Give the images to predict: a folder, a glob or a Parquet file.")
    root = options.open()
    model = root.run(options.run)
    recipe = from_run(model, options.images, options.execution, options.block, options.row)
    if options.reject != "none" and not isinstance(recipe, ModelPrediction):
        raise RecipeError(
            f"--reject {options.reject} is for one adapted classifier, and {model.name} is no run of Adapt"
            " Anything:"
            " leave it out."
        )
    if isinstance(recipe, ScenePrediction):
        from diffadapt.commands.predict_scenes import predict_scenes

        return predict_scenes(recipe, root, options.out, model.name)
    out = options.out or "predictions.parquet"
    _check_out(out)
    limit, rule = _limit(model, options) if options.reject == "energy" else (None, "")
    pipeline = recipe.pipeline()
    run = drive("predict", recipe, pipeline, root, lambda: make_runner(options.execution))
    nodes = run.manifest()["nodes"]
    found = {
        n: predictions_by_key([root.store.load(path) for _, _, _, path in nodes[n]["shards"]])
        for n in (MODEL, SOURCE, PROJECTED)
        if n in nodes
    }
    rejected = 0
    if MODEL in found and limit is not None:
        energies = _energies(found[MODEL])
        rejected = sum(e > limit for e in energies.values())
        data = predictions_parquet(found[MODEL], recipe.class_names, energies, limit)
        count = len(energies)
    elif MODEL in found:
        count, data = len(found[MODEL]), predictions_parquet(found[MODEL], recipe.class_names)
    else:
        count, data = _of_ensemble(found[SOURCE], found[PROJECTED], recipe.class_names)
    failed = failed_images(nodes)
    if not count and failed:
        raise DataError(nothing_read(options.images, failed))
    write_file(out, with_failures(data, failed))
    print(f"{count} predictions by {model.name} in {redact(out)}")
    if limit is not None:
        print(f"{rejected} of them are {NONE_OF_THESE}: their energy is above {limit:.4g}, {rule}")
    if failed:
        print(failures_said(failed, run.url), file=sys.stderr)
    return 0


def _limit(run: Run, options: PredictOptions) -> tuple[float, str]:
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


def _check_out(out: str) -> None:
    """Fail before hours of work, not after."""
    from diffadapt.core.place import demand_writable

    if not out.endswith(".parquet"):
        raise StoreError(f"--out {out!r} must end in .parquet: predictions are written as Parquet.")
    demand_writable(out)


def _of_ensemble(source: dict, projected: dict, names: Sequence[str]) -> tuple[int, bytes]:
    """(rows, Parquet bytes): one row an image that both models predicted, sorted by path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diffadapt.core.predictions import ensemble_columns

    columns = ensemble_columns(source, projected, names)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return len(columns["path"]), buffer.getvalue()
