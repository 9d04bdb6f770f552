"""Pictures of an adaptation: images by class, sure and unsure predictions, feature maps, confidence
histograms.

Everything takes arrays and gives PNG bytes; PIL draws, nothing here needs a display.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffadapt.report.panels import (
    INK,
    LINE,
    PAPER,
    SOFT,
    GradCamCell,
    GradCamRow,
    drawable,
    fit_size,
    font,
    gradcam_panel,
    image_grid,
    pixels,
    png,
)

SCALE = 3
"""Charts are drawn so many times larger and reduced, so that their edges are smooth."""
BINS = 20
BAR = (31, 111, 235)
LEGEND_CLASSES = 24
"""Classes up to which a feature map has a legend."""


@dataclass(frozen=True)
class Sample:
    """One target image: uint8 (H, W) or (H, W, C); the predicted class and its probability; whether it is
    right (None: not known)."""

    image: np.ndarray
    predicted: str
    confidence: float
    right: bool | None = None


@dataclass(frozen=True)
class FeatureMap:
    """One panel: ``points`` (N, 2), the predicted class of each (int, N), and whether it is a target image
    (bool, N)."""

    title: str
    points: np.ndarray
    classes: np.ndarray
    target: np.ndarray


def thumbnail(image: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """``image`` as RGB with its short side at least ``smallest`` and its long one at most ``largest`` pixels
    where both can be.

    Sides that differ by more than ``largest / smallest`` are cut around the centre.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    rows, columns = (min(n, int(short * largest / smallest)) for n in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    return fit_size(image[top : top + rows, left : left + columns], smallest, largest)


def class_grid(images: Mapping[str, Sequence[np.ndarray]], largest: int = 96) -> bytes:
    """A row of images for every class; small ones are enlarged without smoothing, large ones reduced.
    ValueError when empty."""
    names = [n for n, row in images.items() if len(row)]
    rows = [[thumbnail(i, 48, largest) for i in images[n]] for n in names]
    return png(image_grid(rows, [drawable(n, f"class {i}") for i, n in enumerate(names)]))


def confidence_grid(most: Sequence[Sample], least: Sequence[Sample], per_row: int = 8) -> bytes:
    """The surest predictions above the least sure ones: under each image the class and its probability, green
    when right, red when wrong."""
    rows = []
    for label, samples in (("most confident", most), ("least confident", least)):
        for start in range(0, len(samples), per_row):
            cells = [
                GradCamCell(thumbnail(s.image, 96, 128), None, f"{s.predicted}: {s.confidence:.2f}", s.right)
                for s in samples[start : start + per_row]
            ]
            rows.append(GradCamRow(label if start == 0 else "", cells))
    return gradcam_panel(rows, ())


def feature_maps(panels: Sequence[FeatureMap], names: Sequence[str], side: int = 400) -> bytes:
    """Scatter plots side by side. Colour: predicted class; hollow squares: source; filled discs: target. Axes
    have no unit.

    Up to LEGEND_CLASSES classes are named underneath; colours repeat beyond 40.
    """
    used = sorted({int(c) for p in panels for c in p.classes})
    keys = [(c, drawable(names[c], f"class {c}")) for c in used] if len(used) <= LEGEND_CLASSES else []
    width = 12 + len(panels) * (side + 12)
    wide = max([pixels(n) for _, n in keys], default=0) + 28
    columns = max(1, (width - 24) // wide)
    lines = -(-len(keys) // columns)
    height = 34 + side + 34 + 18 * lines
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        left = 12 + i * (side + 12)
        pen.text((left, 10), panel.title, fill=INK, font=font())
        sheet.paste(_scatter(panel, side, len(names)), (left, 32))
    y = 32 + side + 8
    x = 12.0
    for filled, text in ((False, "source image"), (True, "target image")):
        _mark(pen, x + 6, y + 8, 4, SOFT, filled)
        pen.text((x + 16, y), text, fill=SOFT, font=font())
        x += 28 + pixels(text)
    for i, (c, name) in enumerate(keys):
        x, line = 12 + (i % columns) * wide, y + 22 + 18 * (i // columns)
        pen.ellipse((x + 2, line + 4, x + 10, line + 12), fill=class_colour(c, len(names)))
        pen.text((x + 16, line), name, fill=INK, font=font())
    return png(np.asarray(sheet))


def confidence_histograms(stages: Mapping[str, np.ndarray], width: int = 300, height: int = 150) -> bytes:
    """A histogram of the largest softmax probability for every stage (title -> values in [0, 1]), shares of
    its images, one scale."""
    counts = {t: np.histogram(np.clip(v, 0, 1), BINS, (0, 1))[0] / max(len(v), 1) for t, v in stages.items()}
    top = max([float(c.max()) for c in counts.values()] + [0.05])
    columns = min(len(counts), 3)
    rows = -(-len(counts) // columns)
    cell = (width + 60, height + 62)
    sheet = Image.new("RGB", (cell[0] * columns, cell[1] * rows), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (title, share) in enumerate(counts.items()):
        x, y = cell[0] * (i % columns) + 44, cell[1] * (i // columns) + 30
        mean = f"  mean {float(np.mean(stages[title])):.2f}" if len(stages[title]) else "  no images"
        pen.text((x, y - 22), _cut(title, width - pixels(mean)) + mean, fill=INK, font=font())
        for part in (0, 0.5, 1):
            level = y + height * (1 - part)
            pen.line((x, level, x + width, level), fill=LINE)
            pen.text((x - 6, level), f"{100 * top * part:.0f}%", fill=SOFT, font=font(11), anchor="rm")
        step = width / BINS
        for b, value in enumerate(share):
            if value:
                pen.rectangle(
                    (x + b * step + 1, y + height * (1 - value / top), x + (b + 1) * step - 1, y + height),
                    fill=BAR,
                )
        for tick in (0, 0.25, 0.5, 0.75, 1):
            pen.text((x + tick * width, y + height + 4), f"{tick:g}", fill=SOFT, font=font(11), anchor="ma")
    return png(np.asarray(sheet))


def principal_components(features: np.ndarray, count: int = 2) -> np.ndarray:
    """(N, D) -> the first ``count`` principal components (N, count), zero-padded; each sign such that its
    largest loading is positive."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    out = np.zeros((len(x), count))
    if len(x) and x.any():
        _, _, axes = np.linalg.svd(x, full_matrices=False)
        axes = axes[:count]
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        out[:, : len(axes)] = x @ axes.T
    return out


def class_colour(index: int, classes: int) -> tuple[int, int, int]:
    """A colour of its own for each of up to 40 classes: hues around the circle, every other ring darker."""
    ring, count = (
        (index // 2, max(1, -(-min(classes, 40) // 2))) if classes > 10 else (index, max(classes, 1))
    )
    light = (0.45, 0.3)[index % 2] if classes > 10 else 0.45
    red, green, blue = colorsys.hls_to_rgb((ring / count) % 1.0, light, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def _cut(text: str, width: int) -> str:
    if pixels(text) <= width:
        return text
    while text and pixels(text + "...") > width:
        text = text[:-1].rstrip()
    return text + "..."


def _scatter(panel: FeatureMap, side: int, classes: int) -> Image.Image:
    """The panel at ``side`` pixels: source marks first, so that the target lies above them."""
    big = side * SCALE
    sheet = Image.new("RGB", (big, big), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((0, 0, big - 1, big - 1), outline=LINE, width=SCALE)
    points = np.nan_to_num(np.asarray(panel.points, np.float64))
    low, high = (np.percentile(points, q, axis=0) for q in (0.5, 99.5))
    span = np.maximum(high - low, 1e-12)
    places = np.clip((points - low) / span, -0.03, 1.03) * (big * 0.9) + big * 0.05
    for target in (False, True):
        for (x, y), c in zip(
            places[panel.target == target], panel.classes[panel.target == target], strict=True
        ):
            _mark(pen, float(x), big - float(y), 3.2 * SCALE, class_colour(int(c), classes), target)
    return sheet.resize((side, side), Image.Resampling.LANCZOS)


def _mark(pen: Any, x: float, y: float, radius: float, colour: tuple[int, int, int], filled: bool) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if filled:
        pen.ellipse(box, fill=colour)
    else:
        pen.rectangle(box, outline=colour, width=max(1, round(radius / 3)))
