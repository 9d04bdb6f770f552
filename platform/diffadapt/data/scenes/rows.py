"""Rows of scenes as arrays, with unreadable ones set apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import ItemError, WeightsError
from diffadapt.data.image import decode, open_image, orientation, upright
from diffadapt.data.scenes.scene import Scene


def decode_scenes(
    rows: Rows, *, annotation: bool = True, colours: bool = False
) -> tuple[list[Scene], list[Failure]]:
    """The scenes of ``rows`` in their order, and the failures of ``rows`` with those that cannot be decoded:
    unreadable files, and label or colour maps of another size than their image. ``annotation`` and
    ``colours`` say whether these are decoded.
    """
    scenes: list[Scene] = []
    failures = list(rows.failures)
    columns = zip(
        *(rows.column(name) for name in ("key", "image", "annotation", "colours", "objects")), strict=True
    )
    for key, image, truth, painted, objects in columns:
        try:
            scene = Scene(key, decode(image["bytes"] if image else b"", 3, key), objects=objects)
            if annotation and truth is not None:
                scene.annotation = decode(truth["bytes"], 1, f"The label map of {key}")[..., 0]
                check_size(key, "label map", scene.annotation.shape[:2], scene.image.shape[:2])
            if colours and painted is not None:
                scene.colours = decode_colours(painted["bytes"], key)
                check_size(key, "colour map", scene.colours.shape[:2], scene.image.shape[:2])
        except ItemError as error:
            failures.append(Failure(key, str(error)))
            continue
        scenes.append(scene)
    return scenes, failures


def decode_colours(data: bytes, key: str) -> np.ndarray:
    """A colour map as uint8 (H, W, 3), alpha composited on white. Raises ItemError."""
    from PIL import Image

    name = f"The colour map of {key}"
    with open_image(data, name) as image:
        transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        if transparent:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            seen = np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            return upright(seen, orientation(image, data))
    return decode(data, 3, name)


def check_size(key: str, what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """ItemError unless a map has the size (height, width) of its image."""
    if tuple(found) != tuple(wanted):
        raise ItemError(
            f"The {what} of {key} is {found[0]} x {found[1]} pixels but its image {wanted[0]} x {wanted[1]}"
            " (height x width): bring both to one size."
        )


def judged(
    table: pa.Table,
    accepted: Sequence[bool],
    attempts: Sequence[int],
    strength: Sequence[float],
    scores: Sequence[str],
) -> pa.Table:
    """Transferred scenes with the columns that say what became of each; ``scores`` are JSON texts."""
    columns = {
        "accepted": pa.array(accepted, pa.bool_()), "attempts": pa.array(attempts, pa.int64()),
        "strength": pa.array(strength, pa.float64()), "scores": pa.array(scores, pa.string()),
    }  # fmt: skip
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def accepted(rows: Rows) -> Rows:
    """Transferred scenes without those that quality control refused; other scenes as they are."""
    if "accepted" not in rows.table.schema.names:
        return rows
    return Rows(rows.table.filter(rows.table.column("accepted")), rows.failures, rows.warnings)


def demand_classes(what: str, known: Sequence[str], wanted: Sequence[str]) -> None:
    """WeightsError where a trained network (``what``) knows other classes than the scenes have."""
    if tuple(known) != tuple(wanted):
        raise WeightsError(
            f"The {what} knows {len(known)} classes ({', '.join(known[:4])}, ...), but the scenes have"
            f" {len(wanted)} ({', '.join(wanted[:4])}, ...): give scenes of the same class table."
        )
