"""What light and weather do to a street: the same geometry by day, at night, at dusk, in fog, rain and
snow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from diffadapt.worlds.streets.drawing import (
    BUILDING,
    CAR,
    DARK_WINDOW,
    HEADLIGHT,
    LAMP,
    LIT_WINDOW,
    MARKING,
    PAVEMENT,
    POLE,
    ROAD,
    SCALE,
    SKY,
    TAIL_LIGHT,
    TREE,
    Layout,
)

_WARM, _WHITE, _RED, _SODIUM = (1.0, 0.80, 0.46), (1.0, 0.97, 0.88), (1.0, 0.13, 0.09), (1.0, 0.74, 0.38)


@dataclass(frozen=True)
class Light:
    """Ranges of the light and weather of one world."""

    night: tuple[float, float] = (0.13, 0.20)
    """What is left of daylight."""
    night_cast: tuple[float, float, float] = (0.80, 0.92, 1.20)
    sky: tuple[float, float, float] = (0.05, 0.06, 0.12)
    dusk: tuple[float, float] = (0.34, 0.46)
    fog: tuple[float, float] = (0.22, 0.34)
    """Extinction for a unit of depth."""
    noise: tuple[float, float] = (0.030, 0.045)
    """Standard deviation of the sensor's noise in the dark."""
    lamps: tuple[float, float] = (0.8, 1.0)


HERE = Light()
ELSEWHERE = Light(
    night=(0.09, 0.30),
    night_cast=(0.95, 0.90, 1.02),
    sky=(0.08, 0.07, 0.10),
    dusk=(0.28, 0.56),
    fog=(0.14, 0.42),
    noise=(0.012, 0.035),
    lamps=(0.6, 1.1),
)
"""The light that the shipped generator learns from."""


@dataclass
class _View:
    """A layout's tables looked up pixel by pixel, all at SCALE times the resolution; colours in 0..1."""

    colour: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    light: np.ndarray
    rows: np.ndarray
    horizon: float


def render(layout: Layout, condition: str, rng: np.random.Generator, light: Light) -> np.ndarray:
    """uint8 (size, size, 3) of ``layout`` in ``condition``; ``rng`` draws what changes from picture to
    picture."""
    view = _view(layout, rng)
    found = _CONDITIONS[condition](view, rng, light)
    side = layout.side // SCALE
    small = found.reshape(side, SCALE, side, SCALE, 3).mean((1, 3))
    noise = {"night": rng.uniform(*light.noise), "dusk": rng.uniform(*light.noise) * 0.6}.get(
        condition, 0.012
    )
    small = small + rng.normal(0, noise, small.shape)
    return np.clip(small * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _view(layout: Layout, rng: np.random.Generator) -> _View:
    index = layout.canvas
    label, depth = np.array(layout.labels)[index], np.array(layout.depths)[index]
    rows = np.linspace(0, 1, layout.side)[:, None] * np.ones((1, layout.side))
    ground = (label == ROAD) | (label == PAVEMENT)
    along = (1.0 - layout.horizon) / np.maximum(rows - layout.horizon, 0.01)
    depth = np.where(ground, np.clip(along, 0.8, 60.0), depth)
    colour = np.array(layout.colours)[index] / 255.0
    grain = rng.normal(0, 1, layout.canvas.shape)
    strength = np.select(
        [label == TREE, label == ROAD, label == BUILDING, label == PAVEMENT], [0.10, 0.05, 0.03, 0.045], 0.0
    )
    colour = colour * (1.0 + (grain * strength)[..., None])
    return _View(colour, label, depth, np.array(layout.lights)[index], rows, layout.horizon)


def _sky(view: _View, top, bottom) -> np.ndarray:
    share = np.clip(view.rows / max(view.horizon, 0.05), 0, 1)[..., None]
    return np.array(top) * (1 - share) + np.array(bottom) * share


def _clouds(view: _View, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in 0..1."""
    side = view.rows.shape[0]
    coarse = Image.fromarray((rng.random((5, 5)) * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(coarse)[..., None] / 255.0


def _day(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    sun = rng.uniform(0.9, 1.08)
    sky = _sky(view, (0.36, 0.56, 0.86), (0.74, 0.83, 0.93))
    cloud = np.clip(_clouds(view, rng) * 2 - rng.uniform(0.7, 1.4), 0, 1)
    sky = sky * (1 - cloud) + np.array((0.93, 0.94, 0.96)) * cloud
    haze = 1 - np.exp(-0.012 * view.depth)[..., None]
    result = view.colour * sun * (1 - haze) + np.array((0.74, 0.80, 0.88)) * haze
    return np.where((view.label == SKY)[..., None], sky, result)


def _night(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    ambient = rng.uniform(*light.night)
    result = view.colour * ambient * np.array(light.night_cast)
    sky = _sky(view, np.array(light.sky) * rng.uniform(0.7, 1.2), np.array(light.sky) * rng.uniform(1.6, 2.6))
    result = np.where((view.label == SKY)[..., None], sky, result)
    return _lamps(view, result, rng, rng.uniform(*light.lamps), beam=0.55)


def _dusk(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    level = rng.uniform(*light.dusk)
    grey = view.colour.mean(-1, keepdims=True)
    result = (0.6 * view.colour + 0.4 * grey) ** 1.25 * level * np.array((1.08, 0.94, 0.98))
    sky = _sky(
        view,
        np.array((0.36, 0.38, 0.56)) * rng.uniform(0.85, 1.1),
        np.array((0.95, 0.66, 0.46)) * rng.uniform(0.85, 1.02),
    )
    result = np.where((view.label == SKY)[..., None], sky, result)
    return _lamps(view, result, rng, 0.5 * rng.uniform(*light.lamps), beam=0.15)


def _fog(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    grey = np.array((0.74, 0.755, 0.775)) * rng.uniform(0.9, 1.06)
    dull = 0.6 * view.colour + 0.4 * view.colour.mean(-1, keepdims=True)
    clear = np.exp(-rng.uniform(*light.fog) * view.depth)[..., None]
    result = dull * 0.85 * clear + grey * (1 - clear)
    return np.where((view.label == SKY)[..., None], grey * np.ones_like(result), result)


def _rain(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    level = rng.uniform(0.5, 0.66)
    result = view.colour**1.1 * level * np.array((0.94, 1.0, 1.07))
    sky = _sky(view, (0.40, 0.43, 0.48), (0.58, 0.61, 0.65)) * rng.uniform(0.9, 1.1)
    result = np.where((view.label == SKY)[..., None], sky, result)
    haze = 1 - np.exp(-0.05 * view.depth)[..., None]
    result = np.where(
        (view.label == SKY)[..., None], result, result * (1 - haze) + np.array((0.52, 0.55, 0.59)) * haze
    )
    result = _lamps(view, result, rng, 0.45, beam=0.0)
    side = result.shape[0]
    wet = (view.label == ROAD) | (view.label == PAVEMENT)
    source = np.clip((2 * view.horizon * side - np.arange(side)).astype(int), 0, side - 1)
    mirror = result[source]
    mirror = (mirror + np.roll(mirror, 3, 0) + np.roll(mirror, -3, 0)) / 3
    share = (wet * rng.uniform(0.35, 0.5))[..., None]
    result = result * (1 - share) + mirror * share
    streaks = np.zeros(result.shape[:2])
    for _ in range(int(rng.integers(25, 50))):
        x, y, n = rng.integers(side), rng.integers(side), int(rng.integers(5, 14))
        streaks[y : y + n, x] = rng.uniform(0.1, 0.26)
    return result + streaks[..., None]


def _snow(view: _View, rng: np.random.Generator, light: Light) -> np.ndarray:
    level = rng.uniform(0.84, 0.98)
    dull = 0.6 * view.colour + 0.4 * view.colour.mean(-1, keepdims=True)
    white = np.array((0.90, 0.92, 0.96))
    cover = np.select(
        [
            view.label == PAVEMENT,
            view.label == ROAD,
            view.label == TREE,
            view.label == CAR,
            view.label == POLE,
        ],
        [0.85, 0.5, 0.55, 0.2, 0.2],
        0.0,
    )
    cover = np.where(view.light == MARKING, 0.7, cover)
    cover = np.clip(cover + (_clouds(view, rng)[..., 0] - 0.5) * (cover > 0) * 0.8, 0, 0.95)
    above = np.roll(view.label, 2, 0)
    cover = np.where((view.label == BUILDING) & (above == SKY), 0.9, cover)[..., None]
    result = (dull * (1 - cover) + white * cover) * level
    haze = 1 - np.exp(-0.045 * view.depth)[..., None]
    sky = np.array((0.78, 0.80, 0.84)) * rng.uniform(0.95, 1.05)
    result = np.where((view.label == SKY)[..., None], sky, result * (1 - haze) + sky * haze)
    side = result.shape[0]
    for _ in range(int(rng.integers(60, 120))):
        x, y, n = rng.integers(side - 2), rng.integers(side - 2), int(rng.integers(1, 4))
        result[y : y + n, x : x + n] = 0.96
    return result


def _lamps(view: _View, found: np.ndarray, rng: np.random.Generator, power: float, beam: float) -> np.ndarray:
    """``found`` with its lamps on: they shine themselves, glow around, and headlights show the road before
    the camera."""
    own = view.colour
    lit = np.zeros_like(found)
    for kind, colour, level in (
        (LIT_WINDOW, _WARM, 0.75),
        (HEADLIGHT, _WHITE, 1.0),
        (TAIL_LIGHT, _RED, 0.85),
        (LAMP, _SODIUM, 1.0),
    ):
        lit += (view.light == kind)[..., None] * np.array(colour) * level * min(power, 1.0)
    on = (lit.sum(-1, keepdims=True) > 0).astype(float)
    dark = (view.light == DARK_WINDOW)[..., None]
    found = np.where(dark, found * 0.6, found) * (1 - on) + lit
    strong = np.isin(view.light, (HEADLIGHT, TAIL_LIGHT, LAMP))[..., None] * lit
    near, wide = _blur(strong, 3), _blur(strong, 9)
    found = found + power * (1.1 * near + 1.8 * wide * (0.25 + own))
    found = found + power * 0.5 * _blur(lit, 12) * own
    if beam:
        side = found.shape[0]
        x = np.linspace(-1, 1, side)[None, :]
        pool = np.exp(-((x / 0.55) ** 2)) * np.exp(-(((view.rows - 0.86) / 0.20) ** 2))
        ground = np.isin(view.label, (ROAD, PAVEMENT, CAR)) * (view.depth < 9)
        found = found + (pool * ground * beam * rng.uniform(0.7, 1.1))[..., None] * own * np.array(_WHITE)
    return found


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of values in 0..1, channel by channel."""
    parts = Image.fromarray(np.clip(image * 255, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius)
    )
    return np.asarray(parts) / 255.0


_CONDITIONS = {"day": _day, "night": _night, "fog": _fog, "snow": _snow, "rain": _rain, "dusk": _dusk}
CONDITIONS = tuple(_CONDITIONS)
