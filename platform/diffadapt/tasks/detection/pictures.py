"""Pictures of detection: images with their boxes side by side, classes by colour with a legend. Arrays in,
PNG bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffadapt.report.panels import GAP, INK, PAPER, fit_size, image_grid, png
from diffadapt.tasks.classification.adaptation_pictures import drawable, font, pixels

SIDES = (160, 224)
"""Short side that a small image is enlarged to at least, and long side that a large one is reduced to at
most."""
CROWD = (150, 150, 150)


def boxed(
    image: np.ndarray, boxes: Sequence[Mapping[str, Any]], colours: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """``image`` (uint8 HWC) at a size to look at, with ``boxes`` ({category, bbox, and maybe score or crowd})
    drawn in their classes' colours, crowds in grey; the surest lies above the others."""
    shown = fit_size(image, *SIDES)
    y, x = shown.shape[0] / image.shape[0], shown.shape[1] / image.shape[1]
    picture = Image.fromarray(shown)
    pen = ImageDraw.Draw(picture)
    for box in sorted(boxes, key=lambda b: b.get("score", 1.0)):
        x1, y1, x2, y2 = (round(v * f) for v, f in zip(box["bbox"], (x, y, x, y), strict=True))
        colour = CROWD if box.get("crowd") else colours[box["category"]]
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(
            (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), outline=contrast(colour)
        )
        pen.rectangle(corners, outline=colour, width=2 if min(x2 - x1, y2 - y1) > 8 else 1)
    return np.asarray(picture)


def contrast(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """White for dark colours, black for light ones: an outline that shows on any image."""
    return (255, 255, 255) if sum(colour) < 330 else (0, 0, 0)


def box_panel(
    rows: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str],
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
) -> bytes:
    """Rows of pictures of :func:`boxed` under the titles ``columns``, and a legend of the classes. ValueError
    without a picture."""
    grid = image_grid(rows, (), columns)
    legend = _legend([drawable(n, f"class {i}") for i, n in enumerate(names)], colours, grid.shape[1])
    sheet = np.full((grid.shape[0] + legend.shape[0], grid.shape[1], 3), 255, np.uint8)
    sheet[: grid.shape[0]], sheet[grid.shape[0] :] = grid, legend
    return png(sheet)


def _legend(names: Sequence[str], colours: Sequence[tuple[int, int, int]], width: int) -> np.ndarray:
    wide = max((pixels(n) for n in names), default=0) + 34
    columns = max(1, (width - 2 * GAP) // wide)
    lines = -(-len(names) // columns)
    sheet = Image.new("RGB", (width, 20 * lines + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x, y = GAP + (i % columns) * wide, 20 * (i // columns)
        pen.rectangle((x, y + 3, x + 12, y + 15), outline=colour, width=3)
        pen.text((x + 19, y + 1), name, fill=INK, font=font())
    return np.asarray(sheet)
