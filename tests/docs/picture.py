"""``python -m tests.docs.picture <root> [run]``: the front page's picture, from a finished run of SDA: real
source images, synthetic ones, the same aligned, corrupted test images and their projections."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffadapt.core.runs import Root, Run
from diffadapt.data.embedded import digits
from diffadapt.data.image import decode
from tests.docs.__main__ import DOCS

SIDE, GAP, LEFT, COLUMNS = 56, 6, 150, 10
MADE = ("synth", "aligned", "target", "projected")
TITLES = ("source", "synthetic", "aligned", "target", "projected")


def images(run: Run, node: str) -> dict[str, tuple[int, np.ndarray]]:
    """Key -> (label, image) of a node."""
    out = {}
    for shard in run.manifest()["nodes"][node]["shards"]:
        for row in run.root.store.load(shard[3]).table.to_pylist():
            out[row["key"]] = (row["label"], decode(row["image"]["bytes"], 3, row["key"]))
    return out


def picture(run: Run) -> Image.Image:
    """A row a kind, a digit a column. Aligned and projected images stand below those that they were made of,
    and each column of the target is another corruption."""
    _, real, labels = digits("train")
    synth, aligned, target, projected = (images(run, node) for node in MADE)
    groups = sorted({key.split("/")[0] for key in target})
    made, given = [], []
    for c in range(COLUMNS):
        made.append([k for k, (label, _) in sorted(synth.items()) if label == c and k in aligned][3])
        group = groups[c * len(groups) // COLUMNS]
        given.append([k for k, (label, _) in sorted(target.items()) if label == c and k.startswith(group)][3])
    rows = [
        [np.repeat(real[np.flatnonzero(labels == c)[2]].reshape(16, 16, 1), 3, 2) for c in range(COLUMNS)],
        *([found[k][1] for k in keys] for found, keys in ((synth, made), (aligned, made))),
        *([found[k][1] for k in keys] for found, keys in ((target, given), (projected, given))),
    ]
    sheet = Image.new("RGB", (LEFT + COLUMNS * (SIDE + GAP) + GAP, len(rows) * (SIDE + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for y, (title, row) in enumerate(zip(TITLES, rows, strict=True)):
        top = GAP + y * (SIDE + GAP)
        draw.text((12, top + SIDE // 2 - 12), title, fill=(40, 48, 60), font=font)
        for x, pixels in enumerate(row):
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (LEFT + x * (SIDE + GAP), top))
    return sheet


if __name__ == "__main__":
    place, name = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "last")
    picture(Root(place).run(name)).save(DOCS / "pictures" / "rows.png", optimize=True)
