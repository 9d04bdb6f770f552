"""Procedural pictures of digits and letters with captions: what the shipped small text-to-image model is
trained on.

Characters come from fonts and, for digits, half of the time from stroke skeletons (glyph_strokes). Each
picture draws its own looks (slant, weight, size, blur, contrast, ...), and its caption names most of them.
Light on dark, grey stored as RGB.
"""

from __future__ import annotations

import functools
import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.identity import item_seed
from diffadapt.core.ranges import AtLeast, Fraction, Natural, Positive
from diffadapt.worlds.glyphs.captions import caption
from diffadapt.worlds.glyphs.strokes import curves

OVERSAMPLING = 4
_LETTER_SHARE = 0.25
_UNUSABLE = ("STIXNon", "STIXSiz", "cmex", "cmsy", "cmmi", "LastResort", "Display", "Math")
_FOLDERS = (
    "/usr/share/fonts/truetype/dejavu",
    "/usr/share/fonts/truetype/liberation",
    "/usr/share/fonts/truetype/liberation2",
)
_STYLE_SHARES = {
    "slanted": 0.2,
    "rotated": 0.12,
    "blurry": 0.15,
    "sharp": 0.15,
    "faint": 0.12,
    "bright": 0.15,
    "foggy": 0.08,
    "noisy": 0.12,
    "small": 0.1,
    "large": 0.2,
    "wobbly": 0.15,
    "narrow": 0.12,
    "wide": 0.12,
    "thin": 0.2,
    "thick": 0.2,
    "coarse": 0.08,
    "inverted": 0.04,
}
_EXCLUSIVE = (
    ("blurry", "sharp"),
    ("faint", "bright"),
    ("small", "large"),
    ("narrow", "wide"),
    ("thin", "thick"),
    ("sharp", "coarse"),
    ("bright", "foggy"),
)


@dataclass(frozen=True)
class GlyphConfig:
    """Drawn glyphs: ``examples`` pictures of ``size`` pixels a side."""

    size: Annotated[int, AtLeast(8)] = 16
    examples: Positive = 20_000
    fonts: tuple[str, ...] = ("pillow", "matplotlib", "system")
    """Where fonts are taken from: Pillow's bundled one, those that matplotlib ships (if it is installed),
    DejaVu and Liberation under /usr/share/fonts. The bytes of what is found count, so another machine's fonts
    are another data set."""
    handwriting: Fraction = 0.5
    """Share of the digits drawn from stroke skeletons."""
    seed: Natural = 0


class GlyphSet:
    """``glyphs[i]`` is a uint8 array (size, size, 3) and its caption, decided by ``i`` and the configuration
    alone.

    Raises DataError if there is no font.
    """

    def __init__(self, config: GlyphConfig = GlyphConfig()):
        self.config = config
        self.fonts = find_fonts(config.fonts)

    def __len__(self) -> int:
        return self.config.examples

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng(item_seed(self.config.seed, "glyphs", str(index), "draw"))
        character = (
            str(rng.choice(list(string.ascii_letters)))
            if rng.random() < _LETTER_SHARE
            else str(rng.integers(10))
        )
        styles = _styles(rng)
        if character.isdigit() and rng.random() < self.config.handwriting:
            styles.append("handwritten")
            mask = _handwritten(int(character), styles, self.config.size, rng)
        else:
            font = self.fonts[rng.integers(len(self.fonts))]
            styles += font_styles(font)
            mask = _printed(character, font, styles, self.config.size, rng)
        return _finish(mask, styles, rng), caption(character, styles, rng)

    def arrays(self) -> tuple[np.ndarray, list[str]]:
        """All pictures, uint8 (N, size, size, 3), and captions."""
        items = [self[i] for i in range(len(self))]
        return np.stack([image for image, _ in items]), [text for _, text in items]


def find_fonts(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Font files of the named groups, sorted by name; ``pillow`` stands for the bundled font."""
    result = {"pillow": "pillow"} if "pillow" in groups else {}
    folders: list[Path] = [Path(f) for f in _FOLDERS] if "system" in groups else []
    if "matplotlib" in groups:
        folders.insert(0, _matplotlib_fonts())
    for folder in folders:
        for file in sorted(folder.glob("*.ttf")) if folder.is_dir() else ():
            if not file.name.startswith(_UNUSABLE) and not any(part in file.stem for part in _UNUSABLE):
                result.setdefault(file.stem, str(file))
    if not result:
        raise DataError(
            f"No font was found in {', '.join(groups) or 'no group'}: use 'pillow', 'matplotlib' or 'system'"
            " (install DejaVu fonts)."
        )
    return tuple(result[name] for name in sorted(result))


def font_name(font: str) -> str:
    return "Pillow's default (Aileron)" if font == "pillow" else Path(font).stem


def fonts_revision(groups: tuple[str, ...]) -> str:
    """A digest of the bytes of every font that :func:`find_fonts` gives."""
    import PIL

    total = hashlib.sha256()
    for font in find_fonts(groups):
        content = f"pillow {PIL.__version__}".encode() if font == "pillow" else Path(font).read_bytes()
        total.update(f"{font_name(font)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return "sha256:" + total.hexdigest()[:16]


def font_styles(font: str) -> list[str]:
    """What a font's name says of its looks, in the terms of the captions."""
    name = font_name(font).lower()
    styles = ["printed"]
    if "mono" in name or "cmtt" in name:
        styles.append("mono")
    elif any(part in name for part in ("serif", "stix", "cmr", "cmb", "cmti")):
        styles.append("serif")
    else:
        styles.append("sans")
    if "italic" in name or "oblique" in name or name.endswith("ita") or "cmti" in name:
        styles.append("slanted")
    return (
        styles
        + (["thick"] if "bold" in name or "cmb" in name else [])
        + (["narrow"] if "condensed" in name or "narrow" in name else [])
    )


def _matplotlib_fonts() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("matplotlib")
    return (
        Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
        if spec and spec.origin
        else Path("/nonexistent")
    )


def _styles(rng: np.random.Generator) -> list[str]:
    styles = [name for name, share in _STYLE_SHARES.items() if rng.random() < share]
    for first, second in _EXCLUSIVE:
        if first in styles and second in styles:
            styles.remove(second)
    return styles


def _box(styles: list[str], aspect: float, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """Width and height of the glyph in pixels of the oversampled canvas."""
    low, high = (0.42, 0.6) if "small" in styles else (0.86, 1.0) if "large" in styles else (0.62, 0.96)
    height = rng.uniform(low, high) * side
    stretch = (
        rng.uniform(0.6, 0.8)
        if "narrow" in styles
        else rng.uniform(1.2, 1.5)
        if "wide" in styles
        else rng.uniform(0.85, 1.15)
    )
    return min(height * aspect * stretch, side), height


def _frame(styles: list[str], rng: np.random.Generator) -> np.ndarray:
    """Rotation and shear, 2x2, acting on (x, y)."""
    angle = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(10, 25) if "rotated" in styles else rng.normal(0, 3))
    shear = rng.uniform(0.15, 0.45) if "slanted" in styles else rng.normal(0, 0.06)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.array([[1.0, -shear], [0.0, 1.0]])


def _shift(extent: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The centre's place: near the middle, and no further than keeps the glyph inside."""
    room = np.maximum((side - extent) / 2, 0.0)
    return side / 2 + rng.uniform(-1, 1, 2) * np.minimum(room, side / 10)


def _handwritten(digit: int, styles: list[str], size: int, rng: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageDraw

    side = size * OVERSAMPLING
    lines = curves(digit, rng.uniform(0.05, 0.075) if "wobbly" in styles else rng.uniform(0.015, 0.045), rng)
    every = np.vstack(lines)
    width, height = _box(styles, rng.uniform(0.55, 0.85), side, rng)
    pen = side * (
        rng.uniform(0.045, 0.07)
        if "thin" in styles
        else rng.uniform(0.13, 0.19)
        if "thick" in styles
        else rng.uniform(0.07, 0.13)
    )
    scale = np.array([width if np.ptp(every[:, 0]) > 0.3 else width * 0.6, height]) / np.maximum(
        np.ptp(every, axis=0), 0.3
    )
    frame, centre = _frame(styles, rng), (every.max(0) + every.min(0)) / 2
    placed = [((line - centre) * scale) @ frame.T for line in lines]
    every = np.vstack(placed)
    middle = (every.max(0) + every.min(0)) / 2
    fit = min(
        1.0, *((side - pen) / np.maximum(np.ptp(every, axis=0), 1e-6))
    )  # the pen's width stays inside, too
    target = _shift(np.ptp(every, axis=0) * fit + pen, side, rng)
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)
    for line in placed:
        points = [tuple(p) for p in (line - middle) * fit + target]
        draw.line(points, fill=255, width=max(1, round(pen)), joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return _shrink(np.asarray(canvas, np.float32) / 255)


def _printed(character: str, font: str, styles: list[str], size: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    side = size * OVERSAMPLING
    weight = (
        0
        if "thick" in font_styles(font)
        else (
            int(rng.integers(2, 4))
            if "thick" in styles
            else -1
            if "thin" in styles
            else int(rng.integers(0, 2))
        )
    )
    glyph = _glyph(font, character, side, weight)
    width, height = _box(styles, min(1.0, glyph.shape[1] / glyph.shape[0]), side, rng)
    frame = _frame(
        ["" if s == "slanted" and "slanted" in font_styles(font) else s for s in styles], rng
    ) @ np.diag([width, height])
    corners = np.array([[x, y] for x in (-0.5, 0.5) for y in (-0.5, 0.5)]) @ frame.T
    frame = frame * min(1.0, *(side / np.ptp(corners, axis=0)))
    target = _shift(np.ptp(corners, axis=0), side, rng)
    grid = np.stack(np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5), -1)
    grid = grid + _warp(side, side * (0.06 if "wobbly" in styles else 0.015), rng)
    inside = (grid - target) @ np.linalg.inv(frame).T + 0.5  # 0..1 within the glyph
    at = inside * np.array([glyph.shape[1], glyph.shape[0]]) - 0.5
    return _shrink(map_coordinates(glyph, [at[..., 1], at[..., 0]], order=1, cval=0.0))


def _warp(side: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth displacement (side, side, 2) from a 4x4 grid of random vectors."""
    from scipy.ndimage import zoom

    coarse = rng.normal(0.0, strength, (4, 4, 2))
    return np.stack(
        [zoom(coarse[..., k], side / 4, order=1, mode="nearest", grid_mode=True) for k in range(2)], -1
    )


@functools.lru_cache(maxsize=20_000)
def _glyph(font: str, character: str, side: int, weight: int) -> np.ndarray:
    """The character cropped to its ink, float32 0..1, with ``weight`` pixels of stroke added (or one taken
    away)."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    face = ImageFont.load_default(side) if font == "pillow" else ImageFont.truetype(font, side)
    canvas = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(canvas).text(
        (side, side), character, fill=255, font=face, anchor="mm", stroke_width=max(0, weight)
    )
    if weight < 0:
        canvas = canvas.filter(ImageFilter.MinFilter(3))
    box = canvas.getbbox()
    if box is None:
        raise DataError(
            f"The font {font_name(font)} draws nothing for {character!r}: take another group of fonts."
        )
    return np.asarray(canvas.crop(box), np.float32) / 255


def _shrink(canvas: np.ndarray) -> np.ndarray:
    n = canvas.shape[0] // OVERSAMPLING
    return canvas.reshape(n, OVERSAMPLING, n, OVERSAMPLING).mean((1, 3))


def _finish(mask: np.ndarray, styles: list[str], rng: np.random.Generator) -> np.ndarray:
    """Blur, levels, noise: mask (n, n) 0..1 to uint8 (n, n, 3)."""
    from scipy.ndimage import gaussian_filter, zoom

    n = mask.shape[0]
    if "coarse" in styles:
        coarse = mask.reshape(n // 2, 2, n // 2, 2).mean((1, 3))
        mask = zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)
    sigma = (
        rng.uniform(0.9, 1.3)
        if "blurry" in styles
        else rng.uniform(0.0, 0.25)
        if "sharp" in styles
        else rng.uniform(0.3, 0.8)
    )
    if sigma > 0.2:
        mask = gaussian_filter(mask, sigma * n / 16)
        mask = mask / max(float(mask.max()), 1e-6) * rng.uniform(0.9, 1.0)
    ink = (
        rng.uniform(0.4, 0.65) if "faint" in styles else 1.0 if "bright" in styles else rng.uniform(0.8, 1.0)
    )
    paper = rng.uniform(0.12, 0.3) if "foggy" in styles else abs(rng.normal(0, 0.02))
    image = paper + (ink - paper) * mask
    if "noisy" in styles:
        image = image + rng.normal(0, rng.uniform(0.05, 0.12), image.shape)
    if "inverted" in styles:
        image = 1.0 - image
    levels = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)
