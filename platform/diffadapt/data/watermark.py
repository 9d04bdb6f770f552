"""The text watermark of ImageNet-W (Li et al., "A Whac-A-Mole Dilemma", CVPR 2023), for images of any size.

White text of six characters (jiejing, "shortcut", three times) at half opacity, its upper left corner at 1 %
of the width and 40 % of the height, 36 pixels high on 224-pixel images, laid over the image after the crop.
With the font of the official package (found when ``imagenet_w`` is installed, or given as a file) the pixels
are the official ones. Without it, the same two characters are drawn from strokes kept here, and the variant
is named ``watermark(procedural)``.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.image import to_pil

TEXT = "捷径捷径捷径"
OPACITY = 128
"""Alpha of the text, of 255."""
LEFT, TOP = 0.01, 0.4
OFFICIAL_FONT = "SourceHanSerifSC-ExtraLight.otf"
SMALLEST_FONT = 12
"""Pixels. Below it glyphs are drawn larger and averaged down, since a font renderer would drop the thin
strokes."""

_FONT_SIZES = {224: 36, 384: 62, 512: 82, 518: 84}

# Strokes as polylines in a square of side 1 (x to the right, y down), laid out by eye after the characters'
# structure.
_JIE = (
    ((0.06, 0.30), (0.36, 0.26)), ((0.22, 0.08), (0.22, 0.86), (0.13, 0.80)), ((0.05, 0.60), (0.36, 0.48)),
    ((0.44, 0.20), (0.92, 0.17)), ((0.66, 0.05), (0.66, 0.82)), ((0.48, 0.31), (0.84, 0.29), (0.83, 0.55)),
    ((0.41, 0.42), (0.95, 0.40)), ((0.48, 0.54), (0.83, 0.53)), ((0.67, 0.68), (0.88, 0.67)),
    ((0.50, 0.62), (0.47, 0.76), (0.37, 0.91)), ((0.46, 0.74), (0.62, 0.86), (0.95, 0.90)),
)  # fmt: skip
_JING = (
    ((0.30, 0.07), (0.20, 0.20), (0.08, 0.30)),
    ((0.32, 0.27), (0.20, 0.43), (0.05, 0.56)),
    ((0.22, 0.42), (0.22, 0.92)),
    ((0.43, 0.16), (0.80, 0.14), (0.65, 0.33), (0.40, 0.49)),
    ((0.58, 0.26), (0.74, 0.38), (0.94, 0.46)),
    ((0.46, 0.60), (0.86, 0.58)),
    ((0.66, 0.59), (0.66, 0.85)),
    ((0.38, 0.87), (0.95, 0.85)),
)
_STROKE = 0.052
"""Stroke width as a fraction of the font size; it gives the ink that the official font gives at 36 pixels,
hinting included."""
_BASELINE_DROP = 0.30
"""How far below the text's corner the official font's glyphs begin, as a fraction of the font size."""


def watermark(image: np.ndarray, font: str | None = None) -> np.ndarray:
    """A watermarked copy of a uint8 (H, W, 1 or 3) image: same shape.

    ``font`` is a font file to use instead of the official one. Raises DataError when it cannot be loaded, and
    ItemError for an image of another form.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ItemError(
            f"The watermark needs a uint8 image of height x width x 1 or 3, got {image.dtype} {image.shape}."
        )
    height, width = image.shape[:2]
    path = font or official_font()
    size = font_size(min(height, width))
    alpha = _drawn(height, width, size) if path is None else _typeset(height, width, size, path)
    layer = np.full((height, width, 4), 255, dtype=np.uint8)
    layer[..., 3] = alpha
    out = Image.alpha_composite(to_pil(image).convert("RGBA"), Image.fromarray(layer)).convert("RGB")
    return np.asarray(out)[:, :, : image.shape[2]].copy()


def watermark_label(font: str | None = None) -> str:
    """The variant's name in scores: ``watermark`` with the official font, ``watermark(procedural)`` without
    any, and ``watermark(<font file>)`` with another one.
    """
    path = font or official_font()
    if path is None:
        return "watermark(procedural)"
    name = Path(path).name
    return "watermark" if name == OFFICIAL_FONT else f"watermark({Path(path).stem})"


def font_size(side: int) -> int:
    """The text's size in pixels for square images of ``side`` pixels: 36 at 224, else side / 6.22 rounded
    down."""
    return _FONT_SIZES.get(side, max(1, int(side / 6.22)))


@functools.lru_cache(maxsize=1)
def official_font() -> str | None:
    """The font file inside an installed ``imagenet_w`` package, or None. The package itself is not
    imported."""
    spec = importlib.util.find_spec("imagenet_w")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "fonts" / OFFICIAL_FONT
        if path.is_file():
            return str(path)
    return None


@functools.lru_cache(maxsize=16)
def _typeset(height: int, width: int, size: int, path: str) -> np.ndarray:
    """uint8 alpha (height, width) of the text in the font at ``path``."""
    grow = _grow(size)
    try:
        face = ImageFont.truetype(path, size * grow)
    except OSError as error:
        raise DataError(f"{path} is not a usable font ({error}): give a TrueType or OpenType file.") from None
    layer = Image.new("RGBA", (width * grow, height * grow), (255, 255, 255, 0))
    corner = (LEFT * width * grow, TOP * height * grow)
    ImageDraw.Draw(layer).text(corner, TEXT, fill=(255, 255, 255, OPACITY), font=face)
    alpha = layer.getchannel("A")
    return np.asarray(alpha.resize((width, height), Image.Resampling.BOX) if grow > 1 else alpha)


@functools.lru_cache(maxsize=16)
def _drawn(height: int, width: int, size: int) -> np.ndarray:
    """uint8 alpha (height, width) of the text drawn from strokes, four times oversampled."""
    grow = 4 * _grow(size)
    layer = Image.new("L", (width * grow, height * grow), 0)
    draw = ImageDraw.Draw(layer)
    em = size * grow
    thick = max(1, round(_STROKE * em))
    top = TOP * height * grow + _BASELINE_DROP * em
    for place in range(len(TEXT)):
        left = LEFT * width * grow + place * em
        for stroke in (_JIE, _JING)[place % 2]:
            draw.line(
                [(left + x * em, top + y * em) for x, y in stroke], fill=OPACITY, width=thick, joint="curve"
            )
    return np.asarray(layer.resize((width, height), Image.Resampling.BOX))


def _grow(size: int) -> int:
    return -(-SMALLEST_FONT // size) if size < SMALLEST_FONT else 1
