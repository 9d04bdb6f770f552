"""``diffadapt predict``: a finished run's models as they are deployed: new images in, predictions out."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import StoreError
from diffadapt.run.runner import ExecutionConfig


@dataclass(frozen=True)
class PredictOptions(RootOption):
    images: tyro.conf.Positional[str] = ""
    """A folder, a glob, or a Parquet file or folder with an image column."""
    run: str = "last"
    """The finished run whose models to use: a name, a prefix, or 'last'."""
    out: str = ""
    """What to write. Classifiers: a Parquet file (default predictions.parquet) of path, label, class and
    confidence, of SDA those of the source, projected and ensemble predictions too. Segmenters: a new folder
    (default predictions) of label maps and overlays."""
    block: int = 256
    """Images a shard."""
    execution: ExecutionConfig = ExecutionConfig()


def predict(argv: Sequence[str]) -> int:
    from diffadapt.commands.common import make_runner
    from diffadapt.core.errors import DataError
    from diffadapt.core.place import write_file
    from diffadapt.core.predictions import predictions_parquet
    from diffadapt.core.record import predictions_by_key
    from diffadapt.core.redact import redact
    from diffadapt.run.drive import drive
    from diffadapt.systems.predict import MODEL, PROJECTED, SOURCE, from_run
    from diffadapt.systems.predict_scenes import ScenePrediction

    options = parse(PredictOptions, argv, "predict")
    if not options.images:
        raise DataError("Give the images to predict: a folder, a glob or a Parquet file.")
    root = options.open()
    model = root.run(options.run)
    recipe = from_run(model, options.images, options.execution, options.block)
    if isinstance(recipe, ScenePrediction):
        from diffadapt.commands.predict_scenes import predict_scenes

        return predict_scenes(recipe, root, options.out, model.name)
    out = options.out or "predictions.parquet"
    _check_out(out)
    pipeline = recipe.pipeline()
    run = drive("predict", recipe, pipeline, root, lambda: make_runner(options.execution))
    nodes = run.manifest()["nodes"]
    found = {
        n: predictions_by_key([root.store.load(path) for _, _, _, path in nodes[n]["shards"]])
        for n in (MODEL, SOURCE, PROJECTED)
        if n in nodes
    }
    if MODEL in found:
        count, data = len(found[MODEL]), predictions_parquet(found[MODEL], recipe.class_names)
    else:
        count, data = _of_ensemble(found[SOURCE], found[PROJECTED], recipe.class_names)
    write_file(out, data)
    failed = sum(1 for n in nodes.values() for _ in n["quarantined"])
    print(f"{count} predictions by {model.name} in {redact(out)}")
    if failed:
        print(
            f"Some images could not be read: {redact(run.url)}/quarantine.jsonl names them and says why.",
            file=sys.stderr,
        )
    return 0


def _check_out(out: str) -> None:
    """Fail before hours of work, not after."""
    from diffadapt.core.place import demand_writable

    if not out.endswith(".parquet"):
        raise StoreError(f"--out {out!r} must end in .parquet: predictions are written as Parquet.")
    demand_writable(out)


def _of_ensemble(source: dict, projected: dict, names: Sequence[str]) -> tuple[int, bytes]:
    """(rows, Parquet bytes): one row an image that both models predicted, sorted by path."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diffadapt.core.record import softmax

    keys = sorted(set(source) & set(projected))
    columns: dict[str, list] = {"path": [k.split("/", 2)[2] for k in keys]}
    parts = {}
    if keys:
        parts["source"] = softmax(np.stack([source[k][1] for k in keys]))
        parts["projected"] = softmax(np.stack([projected[k][1] for k in keys]))
        parts["ensemble"] = (parts["source"] + parts["projected"]) / 2
    for name in ("source", "projected", "ensemble"):
        p = parts.get(name, np.zeros((0, 1)))
        label = p.argmax(axis=1)
        columns[f"{name}_label"] = label.tolist()
        columns[f"{name}_class"] = [names[i] if names else str(i) for i in label]
        columns[f"{name}_confidence"] = p.max(axis=1).tolist() if len(p) else []
    columns["label"], columns["confidence"] = columns["ensemble_label"], columns["ensemble_confidence"]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return len(keys), buffer.getvalue()
