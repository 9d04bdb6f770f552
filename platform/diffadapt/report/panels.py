"""Pictures for the report: grids of images with labels, before/after pairs, and Grad-CAM panels (SDA Fig. 4).

Everything takes and gives arrays or PNG bytes; PIL draws, nothing here needs a display.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 48
"""Pixels: images whose short side is less are enlarged by a whole factor without smoothing."""
LARGEST = 224
"""Pixels: images whose long side is more are reduced, so that a report stays small."""
GAP, TEXT = 6, 13
INK, PAPER, RIGHT, WRONG = (27, 35, 48), (255, 255, 255), (23, 115, 63), (179, 38, 30)
SOFT, LINE = (91, 102, 117), (223, 227, 233)


@dataclass(frozen=True)
class GradCamCell:
    """One picture of a Grad-CAM panel: ``image`` uint8 (H, W) or (H, W, C), ``heat`` float (h, w) in [0, 1]
    (any size), ``predicted`` the class name, ``right`` whether it is the true one (None: not known)."""

    image: np.ndarray
    heat: np.ndarray | None
    predicted: str
    right: bool | None = None


@dataclass(frozen=True)
class GradCamRow:
    """One line of a Grad-CAM panel: a label and a cell a column (None: an empty place)."""

    label: str
    cells: Sequence[GradCamCell | None]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as uint8 (H, W, 3). ValueError for anything else."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"images must be uint8, not {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"images must be (H, W), (H, W, 1) or (H, W, 3), not {image.shape}")
    return image


def fit_size(image: np.ndarray, smallest: int = SMALLEST, largest: int = LARGEST) -> np.ndarray:
    """``image`` as RGB, enlarged by a whole factor (nearest) or reduced (box filter) to lie between the two
    sides."""
    image = as_rgb(image)
    height, width = image.shape[:2]
    factor = -(-smallest // min(height, width))
    if factor > 1:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    if max(height, width) > largest:
        scale = largest / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return image


def png(array: np.ndarray) -> bytes:
    """uint8 (H, W, 3) as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> np.ndarray:
    """A labelled grid as uint8 (H, W, 3). ``images``: rows of uint8 arrays (None: an empty place); rows may
    differ in length.

    Labels that are wider than their column are broken over up to three lines, then cut. ValueError when there
    is no image.
    """
    cells = [[None if i is None else Cell(fit_size(i)) for i in row] for row in images]
    return draw_grid(cells, row_labels, column_labels)


def before_after_grid(
    before: Mapping[str, Sequence[np.ndarray]],
    after: Mapping[str, Sequence[np.ndarray]],
    *,
    names: tuple[str, str] = ("before", "after"),
    per_row: int = 6,
) -> bytes:
    """PNG bytes: a row for every key of ``before`` (class, corruption), its images on the left and the same
    after on the right.

    ``after`` has the same keys, and its k-th image belongs to the k-th before; images without a partner are
    left out. ValueError when no pair is left.
    """
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = []
    labels: list[str] = []
    for key, images in before.items():
        if pairs := list(zip(images, after.get(key, ()), strict=False))[:per_row]:
            rows.append(pairs)
            labels.append(_readable(key))
    sides = [[[Cell(fit_size(pair[side], largest=96)) for pair in row] for row in rows] for side in (0, 1)]
    left, right = draw_grid(sides[0], labels, (), names[0]), draw_grid(sides[1], (), (), names[1])
    sheet = np.full(
        (max(left.shape[0], right.shape[0]), left.shape[1] + 2 * GAP + right.shape[1], 3), 255, np.uint8
    )
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], -right.shape[1] :] = right
    return png(sheet)


def gradcam_panel(
    rows: Sequence[GradCamRow],
    column_labels: Sequence[str] = (
        "source image, source model",
        "target image, source model",
        "projected, source model (DDA)",
        "projected, fine-tuned model (SDA)",
    ),
) -> bytes:
    """PNG bytes of heat maps over images, the predicted class under each: green when right, red and so marked
    when wrong."""
    cells = [
        [None if c is None else Cell(overlay(fit_size(c.image, 96), c.heat), *_verdict(c)) for c in row.cells]
        for row in rows
    ]
    return png(draw_grid(cells, [_readable(r.label) for r in rows], column_labels))


def overlay(image: np.ndarray, heat: np.ndarray | None, strength: float = 0.5) -> np.ndarray:
    """``image`` (uint8 RGB) mixed with the colours of ``heat`` (any size; values outside [0, 1] are clipped,
    NaN is 0)."""
    if heat is None:
        return image
    heat = np.clip(np.nan_to_num(np.asarray(heat, np.float32)), 0, 1)
    size = (image.shape[1], image.shape[0])
    heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    return (image * (1 - strength) + heat_colours(heat) * strength + 0.5).clip(0, 255).astype(np.uint8)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """Values in [0, 1], (H, W), as float RGB in [0, 255]: dark blue, cyan, yellow, red."""
    stops = np.array([0.0, 0.35, 0.65, 1.0])
    colours = np.array([[20, 30, 120], [0, 180, 220], [250, 220, 40], [215, 25, 30]], np.float32)
    return np.stack([np.interp(heat, stops, colours[:, c]) for c in range(3)], axis=-1)


def figures_index(sections: Sequence[Mapping[str, str]]) -> bytes:
    """The bytes of ``figures.json``. Each section: title, caption, image (a file name beside it), alt."""
    wanted = ("title", "caption", "image", "alt")
    for section in sections:
        assert set(section) == set(wanted), f"a figure needs {wanted}, not {sorted(section)}"
    return json.dumps({"sections": [dict(s) for s in sections]}, indent=1).encode()


@dataclass(frozen=True)
class Cell:
    """One picture of :func:`draw_grid`: uint8 (H, W, 3) RGB, drawn as it is, and the text under it."""

    image: np.ndarray
    text: str = ""
    colour: tuple[int, int, int] = INK


def drawable(name: str, otherwise: str) -> str:
    """``name``, without its accents where the drawing font lacks them; ``otherwise`` where it lacks the
    letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return next((n for n in (name, plain) if n and all(_has(c) for c in n)), otherwise)


@lru_cache(maxsize=4096)
def _has(letter: str) -> bool:
    return letter.isspace() or bytes(font().getmask(letter)) != bytes(font().getmask("\U0010ffff"))


def _readable(key: str) -> str:
    """'gaussian noise 5' of 'gaussian_noise/5'."""
    return key.replace("_", " ").replace("(", " (").replace("/", " ")


def _verdict(cell: GradCamCell) -> tuple[str, tuple[int, int, int]]:
    if cell.right is None:
        return cell.predicted, INK
    return (cell.predicted, RIGHT) if cell.right else (f"{cell.predicted} (wrong)", WRONG)


@lru_cache(maxsize=4)
def font(size: int = TEXT) -> Any:
    return ImageFont.load_default(size)


def pixels(text: str) -> int:
    """The width of ``text`` as drawn."""
    return int(np.ceil(font().getlength(text)))


def _wrap(text: str, width: int, lines: int = 3) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels, the last one cut with '...' when it must
    be."""
    out: list[str] = []
    for word in " ".join(str(text).split()).split(" "):
        if out and pixels(f"{out[-1]} {word}") <= width:
            out[-1] += f" {word}"
        else:
            out.append(word)
    if len(out) > lines:
        out = out[: lines - 1] + [" ".join(out[lines - 1 :])]
    return [_cut(line, width) for line in out]


def _cut(text: str, width: int) -> str:
    if pixels(text) <= width:
        return text
    while text and pixels(text + "...") > width:
        text = text[:-1]
    return text + "..."


def draw_grid(
    cells: Sequence[Sequence[Cell | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    heading: str = "",
) -> np.ndarray:
    """Cells (None: an empty place) as a labelled grid, uint8 (H, W, 3); texts are broken over up to three
    lines. ValueError when there is no image."""
    columns = max((len(r) for r in cells), default=0)
    if not any(c for row in cells for c in row):
        raise ValueError("a grid needs at least one image")
    widths = [
        max([row[i].image.shape[1] for row in cells if i < len(row) and row[i]] + [SMALLEST])
        for i in range(columns)
    ]
    left = min(max([pixels(t) for t in row_labels], default=0), 190)
    left += GAP * 2 if left else 0
    line = TEXT + 3
    heads = [_wrap(t, w) for t, w in zip(column_labels, widths, strict=False)]
    head = (
        line * max([len(h) for h in heads], default=0)
        + (GAP if heads else 0)
        + (line + GAP if heading else 0)
    )
    texts = [
        [_wrap(c.text, w) if c and c.text else [] for c, w in zip(row, widths, strict=False)] for row in cells
    ]
    unders = [line * max([len(t) for t in row], default=0) for row in texts]
    heights = [max([c.image.shape[0] for c in row if c] + [0]) for row in cells]
    size = (
        left + sum(widths) + GAP * (columns + 1),
        head + sum(heights) + sum(unders) + GAP * (len(cells) + 1),
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    starts = [left + GAP + sum(widths[:i]) + GAP * i for i in range(columns)]
    for x, w, words in zip(starts, widths, heads, strict=False):
        _write(pen, words, x + w / 2, GAP / 2, line, INK, "ma")
    if heading:
        pen.text((left + GAP, GAP), _cut(heading, sum(widths)), fill=INK, font=font())
    y = head + GAP
    for i, (row, height, under) in enumerate(zip(cells, heights, unders, strict=True)):
        if i < len(row_labels) and row_labels[i]:
            words = _wrap(row_labels[i], left - GAP * 2)
            _write(pen, words, GAP, y + max(0, (height - line * len(words)) / 2), line, INK, "la")
        for x, w, cell, words in zip(starts, widths, row, texts[i], strict=False):
            if cell:
                sheet.paste(Image.fromarray(cell.image), (x + (w - cell.image.shape[1]) // 2, y))
                _write(pen, words, x + w / 2, y + height + 1, line, cell.colour, "ma")
        y += height + under + GAP
    return np.asarray(sheet)


def _write(pen: Any, words: Sequence[str], x: float, y: float, line: int, colour: tuple, anchor: str) -> None:
    for i, text in enumerate(words):
        pen.text((x, y + i * line), text, fill=colour, font=font(), anchor=anchor)
