"""Pictures of labelled scenes: transfers beside their sources, label maps beside the truth, the confusion
matrix.

Everything takes arrays and gives PNG bytes; PIL draws, nothing here needs a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffadapt.core.artifact import IGNORED
from diffadapt.data.scenes.table import ClassTable
from diffadapt.report.panels import (
    INK,
    LINE,
    PAPER,
    RIGHT,
    SMALLEST,
    SOFT,
    WRONG,
    Cell,
    draw_grid,
    drawable,
    font,
    pixels,
    png,
)

WIDEST, NARROWEST = 300, 160
"""Pixels that a picture is wide in a sheet; smaller ones are enlarged by a whole factor, larger ones reduced.
"""
ROOM = 1240
"""Pixels that a sheet may be wide before its entries stand in one column."""


@dataclass(frozen=True)
class Transfer:
    """One entry of a contact sheet: ``source`` and ``transferred`` uint8 (H, W, 3), ``labels`` uint8 (H, W)
    or None, and what is said of it."""

    source: np.ndarray
    labels: np.ndarray | None
    transferred: np.ndarray
    text: str
    accepted: bool


@dataclass(frozen=True)
class Panel:
    """One scene: ``image`` uint8 (H, W, 3), ``truth`` uint8 (H, W) or None, predicted label maps of any size
    with a text each."""

    image: np.ndarray
    truth: np.ndarray | None
    predictions: Sequence[np.ndarray]
    texts: Sequence[str]


def contact_sheet(entries: Sequence[Transfer], classes: ClassTable) -> bytes:
    """Source | labels | transferred, several entries side by side where there is room; refused ones are
    marked in red. ValueError when empty."""
    width = _width([e.transferred for e in entries])
    heads = (
        ["source", "labels", "transferred"]
        if any(e.labels is not None for e in entries)
        else ["source", "transferred"]
    )
    cells: list[list[Cell | None]] = []
    for e in entries:
        cell: list[Cell | None] = [
            Cell(_scaled(e.source, width)),
            Cell(_scaled(e.transferred, width), e.text, RIGHT if e.accepted else WRONG),
        ]
        if len(heads) == 3:
            cell.insert(1, None if e.labels is None else Cell(_painted(e.labels, classes, width)))
        cells.append(cell)
    side = max(1, min((ROOM + SMALLEST) // ((width + 6) * len(heads) + SMALLEST), len(cells)))
    rows = [
        [c for cell in cells[i : i + side] for c in (*cell, None)][:-1] for i in range(0, len(cells), side)
    ]  # an empty place between entries
    return png(
        _with_legend(
            draw_grid(rows, (), [h for _ in range(side) for h in (*heads, "")][:-1]),
            classes,
            [e.labels for e in entries],
        )
    )


def panels(rows: Sequence[Panel], titles: Sequence[str], classes: ClassTable) -> bytes:
    """Image | truth | a column for each of ``titles``; without any truth its column is left out. ValueError
    when empty."""
    labelled = any(r.truth is not None for r in rows)
    width = _width([r.image for r in rows])
    heads = ["image", *(["truth"] if labelled else []), *titles]
    cells: list[list[Cell | None]] = []
    for r in rows:
        shown = _scaled(r.image, width)
        row: list[Cell | None] = [Cell(shown)]
        if labelled:
            row.append(None if r.truth is None else Cell(_painted(r.truth, classes, width, shown.shape[0])))
        row += [
            Cell(_painted(p, classes, width, shown.shape[0]), text)
            for p, text in zip(r.predictions, r.texts, strict=True)
        ]
        cells.append(row)
    seen = [m for r in rows for m in (r.truth, *r.predictions)]
    return png(_with_legend(draw_grid(cells, (), heads), classes, seen))


def confusion_matrix(matrix: np.ndarray, classes: ClassTable) -> bytes:
    """(K+1, K+1) pixel counts as percent of each true class's pixels; rows are classes that occur, void is a
    column where it was predicted.

    ValueError when no pixel is labelled.
    """
    counts = np.asarray(matrix, np.float64)
    count = len(classes.names)
    rows = [c for c in range(count) if counts[c].sum()]
    if not rows:
        raise ValueError("a confusion matrix needs labelled pixels")
    columns = [c for c in range(count) if counts[c].sum() or counts[:count, c].sum()] + [count] * bool(
        counts[:count, count].sum()
    )
    share = counts[rows][:, columns] / counts[rows].sum(1, keepdims=True)
    names = [drawable(n, f"class {i}") for i, n in enumerate(classes.names)] + ["void"]
    side = 54 if len(columns) <= 12 else 36
    left, top = max(pixels(names[c]) for c in rows) + 34, max(pixels(names[c]) for c in columns) + 54
    head = "predicted, % of the true class's pixels"
    sheet = Image.new(
        "RGB", (left + max(side * len(columns), pixels(head)) + 8, top + side * len(rows) + 8), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((left - 26, 6), "true", fill=SOFT, font=font(12), anchor="ra")
    pen.text((left, 6), head, fill=SOFT, font=font(12))
    for i, c in enumerate(columns):
        x = left + side * i
        _upright(sheet, names[c], (x + side // 2, top - 22))
        _swatch(pen, (x + side // 2 - 6, top - 17), classes, c)
    for j, r in enumerate(rows):
        y = top + side * j
        pen.text((left - 26, y + side / 2), names[r], fill=INK, font=font(), anchor="rm")
        _swatch(pen, (left - 20, y + side // 2 - 6), classes, r)
        for i, c in enumerate(columns):
            x, value = left + side * i, float(share[j, i])
            shade = tuple(int(v) for v in _shade(value))
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=shade, outline=LINE)
            if value >= 0.005:
                dark = sum(shade) < 384
                pen.text(
                    (x + side / 2, y + side / 2),
                    f"{100 * value:.0f}",
                    fill=PAPER if dark else INK,
                    font=font(13 if r == c else 12),
                    anchor="mm",
                )
    return png(np.asarray(sheet))


def _shade(value: float) -> np.ndarray:
    """White to dark blue."""
    return (1 - value**0.6) * np.array(PAPER) + value**0.6 * np.array((20, 60, 140))


def _paint(labels: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Class numbers in the table's own colours; void, predicted or ignored, black."""
    from diffadapt.data.scenes.palettes import paint

    return paint(np.where(labels < len(classes.names), labels, IGNORED).astype(np.uint8), classes, "own")


def _width(images: Sequence[np.ndarray]) -> int:
    widest = max(image.shape[1] for image in images)
    return min(WIDEST, widest * max(1, -(-NARROWEST // widest)))


def _scaled(
    image: np.ndarray, width: int, how: Image.Resampling = Image.Resampling.BOX, height: int = 0
) -> np.ndarray:
    """``image`` at ``width``, its sides in proportion unless ``height`` is given; enlarged without
    smoothing."""
    height = height or max(1, round(image.shape[0] * width / image.shape[1]))
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    method = how if width < image.shape[1] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), method))


def _painted(labels: np.ndarray, classes: ClassTable, width: int, height: int = 0) -> np.ndarray:
    return _paint(_scaled(labels, width, Image.Resampling.NEAREST, height), classes)


def _with_legend(grid: np.ndarray, classes: ClassTable, maps: Sequence[np.ndarray | None]) -> np.ndarray:
    """``grid`` above the names and colours of the classes that occur in ``maps``."""
    seen = sorted({int(c) for m in maps if m is not None for c in np.unique(m)})
    shown = [(c, drawable(classes.names[c], f"class {c}")) for c in seen if c < len(classes.names)]
    if any(c >= len(classes.names) for c in seen):
        shown.append((len(classes.names), "void or not labelled"))
    if not shown:
        return grid
    lines: list[list[tuple[int, str]]] = [[]]
    width = max(grid.shape[1], 320)
    x = 6
    for c, name in shown:
        step = 34 + pixels(name)
        if lines[-1] and x + step > width:
            lines.append([])
            x = 6
        lines[-1].append((c, name))
        x += step
    sheet = Image.new("RGB", (width, grid.shape[0] + 8 + 20 * len(lines)), PAPER)
    sheet.paste(Image.fromarray(grid), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        x, y = 6, grid.shape[0] + 4 + 20 * i
        for c, name in line:
            _swatch(pen, (x, y + 2), classes, c)
            pen.text((x + 18, y), name, fill=INK, font=font())
            x += 34 + pixels(name)
    return np.asarray(sheet)


def _swatch(pen: Any, place: tuple[float, float], classes: ClassTable, c: int) -> None:
    x, y = place
    colour = tuple(classes.colours[c]) if c < len(classes.names) else (0, 0, 0)
    pen.rectangle((x, y, x + 12, y + 12), fill=colour, outline=SOFT)


def _upright(sheet: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """``text`` turned by 90 degrees, ending at ``foot`` (centre, lower end)."""
    strip = Image.new("RGB", (pixels(text) + 2, 18), PAPER)
    ImageDraw.Draw(strip).text((0, 1), text, fill=INK, font=font())
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (foot[0] - turned.width // 2, foot[1] - turned.height))
