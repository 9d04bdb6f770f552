"""``diffadapt predict`` for runs whose model is a segmenter: label maps and overlays in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffadapt.core.runs import Root
from diffadapt.systems.predict_scenes import SEGMENTS, ScenePrediction

DEFAULT = "predictions"
HEADER = ("path", "label_map", "overlay", "confidence")


def predict_scenes(recipe: ScenePrediction, root: Root, out: str, said: str) -> int:
    """Run ``recipe`` and write ``labels/``, ``overlays/``, classes.csv and predictions.csv under ``out``;
    ``said`` names the model's run."""
    import sys

    from diffadapt.api import runners
    from diffadapt.api.predict import failures_said
    from diffadapt.core.errors import StoreError
    from diffadapt.core.place import demand_empty, new_folder
    from diffadapt.core.predictions import failed_images
    from diffadapt.data.scenes.write import TABLE
    from diffadapt.run.drive import drive

    out = out or DEFAULT
    if out.endswith(".parquet"):
        raise StoreError(
            f"--out {out!r} must be a folder: {said} holds a segmenter, whose predictions are label maps."
        )
    demand_empty(out)
    with new_folder(out):
        pass  # fails before hours of work, not after
    run = drive("predict", recipe, recipe.pipeline(), root, lambda: runners.make_runner(recipe.execution))
    nodes = run.manifest()["nodes"]
    failed = failed_images(nodes)
    with new_folder(out) as place:
        shards = [path for _, _, _, path in nodes[SEGMENTS]["shards"]]
        count, unnamed = _write(recipe, root, shards, failed, place)
    print(f"{count} label maps by {said} in {out} (labels, overlays, {TABLE}, predictions.csv)")
    if failed:
        print(failures_said(failed, run.url), file=sys.stderr)
    if unnamed:
        what = "image has a name" if unnamed == 1 else "images have names"
        print(f"{unnamed:,} {what} that no file here may have: predictions.csv says which.", file=sys.stderr)
    return 0


def _write(
    recipe: ScenePrediction, root: Root, shards: Sequence[str], failed: Mapping[str, str], out: str
) -> tuple[int, int]:
    """The files of all predictions, which lie in ``shards`` of the store, under ``out``; returns how many,
    and of how many images the name stands for no file. ``failed``: path -> reason of images without one.
    Raises DataError where there is none at all."""

    from diffadapt.api.predict import nothing_read
    from diffadapt.core.errors import DataError
    from diffadapt.core.predictions import image_path
    from diffadapt.core.spreadsheet import csv_bytes
    from diffadapt.data.scenes.write import TABLE, Places, Tree, class_csv, label_png

    photos = recipe.photos.source("")
    assert photos is not None
    tree, places = Tree(out), Places(item.key for item in photos.items)
    table, refused = [], {}
    for shard in shards:
        rows = root.store.load(shard)
        for key, prediction, confidence in zip(
            rows.column("key"), rows.column("prediction"), rows.column("confidence"), strict=True
        ):
            name = image_path(key)
            try:
                place = places(name)
            except DataError as error:  # the others are made and are written
                refused[name] = str(error)
                continue
            image, labels = _at_its_size(photos.read(name), prediction["bytes"], key)
            tree.put(f"labels/{place}.png", label_png(labels, recipe.classes))
            tree.put(f"overlays/{place}.jpg", _painted(image, labels, recipe))
            table.append((name, f"labels/{place}.png", f"overlays/{place}.jpg", f"{confidence:.4f}"))
    count, failed = len(refused), {**failed, **refused}
    if not table and failed:
        raise DataError(nothing_read(recipe.data.path, failed))
    rows = [(*row, "") for row in table] + [(path, "", "", "", reason) for path, reason in failed.items()]
    cells = [(*HEADER, "reason"), *sorted(rows)] if failed else [HEADER, *sorted(table)]
    tree.put("predictions.csv", csv_bytes(cells))
    tree.put(TABLE, class_csv(recipe.classes))
    return len(table), count


def _at_its_size(data: bytes, prediction: bytes, key: str):
    """(image uint8 (H, W, 3), its label map uint8 (H, W))."""
    from diffadapt.data.image import decode
    from diffadapt.data.scenes.write import to_size

    image = decode(data, 3, key)
    return image, to_size(decode(prediction, 1, key)[..., 0], image.shape[:2])


def _painted(image, labels, recipe: ScenePrediction) -> bytes:
    import io

    from PIL import Image

    from diffadapt.data.scenes.write import overlay

    buffer = io.BytesIO()
    Image.fromarray(overlay(image, labels, recipe.classes)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
