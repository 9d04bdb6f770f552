"""Procedural relighting of a labelled day image: dusk, night and fog, by what each pixel is.

What an appearance looks like is stated here, in numbers and in general; no image of the appearance is needed
or used. Light falls off in linear intensities; the sky, the lamps and the haze are added by class. Classes
are told by their names, so that any class table works; a table without sky or cars is relit without their
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from diffadapt.core.errors import RecipeError, suggest

ROLES: Mapping[str, tuple[str, ...]] = {
    "sky": ("sky",),
    "car": ("car", "truck", "bus", "caravan", "trailer", "vehicle", "van", "truckbus", "suvpickuptruck"),
    "ground": (
        "road",
        "pavement",
        "sidewalk",
        "parking",
        "terrain",
        "roadshoulder",
        "lanemkgsdriv",
        "lanemkgsnondriv",
    ),
    "building": ("building", "house", "wall"),
}
"""Names (lower case, letters alone) that a role goes by in the usual data sets."""
CAPTIONS: Mapping[str, str] = {
    "dusk": "driving at dusk",
    "night": "driving at night",
    "fog": "driving in fog",
}
"""The appearances and the captions of their training images."""
_WARM, _WHITE, _RED = (1.0, 0.72, 0.38), (1.0, 0.95, 0.84), (1.0, 0.10, 0.06)


def check_appearances(names: Sequence[str]) -> None:
    """RecipeError for a name that is no appearance."""
    for name in names:
        if name not in CAPTIONS:
            raise RecipeError(
                f"The appearance {name!r} is not known: give some of"
                f" {', '.join(CAPTIONS)}.{suggest(name, CAPTIONS)}"
            )


def relight(
    image: np.ndarray, annotation: np.ndarray, names: Sequence[str], appearance: str, rng: np.random.Generator
) -> np.ndarray:
    """uint8 (H, W, 3) of the day ``image`` under ``appearance``; ``annotation`` (H, W) holds positions in
    ``names``.

    ``rng`` draws the light: two draws give two evenings. Raises RecipeError for an unknown appearance.
    """
    check_appearances([appearance])
    masks = {role: np.isin(annotation, _classes(names, role)) for role in ROLES}
    linear = (image.astype(np.float64) / 255.0) ** 2.2
    result = _APPEARANCES[appearance](linear, masks, rng)
    return np.clip(255.0 * result + 0.5, 0, 255).astype(np.uint8)


def _classes(names: Sequence[str], role: str) -> list[int]:
    return [
        i for i, name in enumerate(names) if "".join(c for c in name.lower() if c.isalpha()) in ROLES[role]
    ]


def _dusk(linear: np.ndarray, masks: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The sky is the only source of light: it stays bright, what stands against it is dark, soft and pale."""
    level, cast = rng.uniform(0.07, 0.24), _cast(rng, rng.uniform(-0.14, 0.12))
    ground = _dimmed(linear, level, cast, saturation=rng.uniform(0.45, 0.85), soften=rng.uniform(0.2, 0.5))
    brightness, warmth = rng.uniform(0.40, 0.95), rng.uniform(-0.2, 0.35)
    sky = _sky(
        linear,
        masks["sky"],
        np.array((1 - 0.35 * warmth, 1 - 0.25 * abs(warmth), 1.0)) * brightness * rng.uniform(0.6, 1.0),
        np.array((1 + 0.15 * warmth, 0.97, 1 - 0.5 * warmth)) * brightness,
        rng.uniform(0.2, 0.6),
    )
    edge = _soft(masks["sky"], 1.0)[..., None]
    result = (
        ground * (1 - edge) + sky * edge + rng.uniform(0.01, 0.06) * _blur(sky * edge, _scale(linear) * 0.06)
    )
    result = _lamps(
        result,
        linear,
        masks,
        rng,
        power=rng.uniform(0.1, 0.7),
        share=rng.uniform(0.2, 0.7),
        windows=rng.uniform(0.0, 0.4),
    )
    return _camera(result, rng, noise=rng.uniform(0.004, 0.018), blur=rng.uniform(0.0, 0.9))


def _night(linear: np.ndarray, masks: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Lamps are the only sources of light."""
    ground = _dimmed(
        linear,
        rng.uniform(0.012, 0.05),
        _cast(rng, rng.uniform(-0.3, 0.35)),
        saturation=rng.uniform(0.4, 0.8),
        soften=0.4,
    )
    height, width = linear.shape[:2]
    y, x = np.mgrid[0:height, 0:width] / np.array((height, width)).reshape(2, 1, 1)
    pool = np.exp(-(((x - 0.5) / 0.4) ** 2) - ((y - 0.85) / 0.22) ** 2) * (masks["ground"] | masks["car"])
    ground = ground + linear * (pool * rng.uniform(0.05, 0.25))[..., None] * np.array(_WHITE)
    dark = np.array((0.010, 0.011, 0.018)) * rng.uniform(0.3, 2.0)
    edge = _soft(masks["sky"], 1.0)[..., None]
    result = ground * (1 - edge) + (dark * (0.6 + 1.6 * y[..., None])) * edge
    result = _lamps(
        result, linear, masks, rng, power=rng.uniform(0.6, 1.0), share=0.9, windows=rng.uniform(0.3, 1.0)
    )
    return _camera(result, rng, noise=rng.uniform(0.012, 0.035), blur=rng.uniform(0.2, 1.0))


def _fog(linear: np.ndarray, masks: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Koschmieder's law with a distance that is guessed from the row: the ground recedes towards the
    horizon."""
    height = linear.shape[0]
    rows = np.linspace(0, 1, height)[:, None]
    horizon = _horizon(masks)
    distance = np.clip(
        0.5 / np.maximum(np.abs(rows - horizon) * np.where(rows < horizon, 0.8, 1.4), 0.05), 0.4, 9.0
    )
    clear = np.exp(-rng.uniform(0.08, 0.24) * distance) * np.ones(linear.shape[:2])
    clear = np.where(masks["sky"], 0.02, clear)[..., None]
    grey = np.array((0.50, 0.52, 0.55)) * rng.uniform(0.75, 1.2)
    result = _dimmed(linear, rng.uniform(0.5, 0.8), np.ones(3), saturation=0.6, soften=0.4) * clear + grey * (
        1 - clear
    )
    return _camera(result, rng, noise=0.006, blur=rng.uniform(0.2, 0.8))


def _horizon(masks: Mapping[str, np.ndarray]) -> float:
    rows = np.nonzero(masks["ground"].any(1))[0]
    return float(np.clip(rows.min() / masks["ground"].shape[0], 0.25, 0.65)) if len(rows) else 0.45


def _cast(rng: np.random.Generator, warmth: float) -> np.ndarray:
    return np.array((1 + warmth, 1 + rng.uniform(-0.05, 0.05), 1 - warmth))


def _dimmed(
    linear: np.ndarray, level: float, cast: np.ndarray, saturation: float, soften: float
) -> np.ndarray:
    """Less light, from everywhere: direct sun and its shadows are evened out by ``soften``, and colours
    pale."""
    grey = linear.mean(-1, keepdims=True)
    wide = np.maximum(_blur(grey, _scale(linear) * 0.08), 0.01)
    even = linear * (wide.mean() / wide) ** soften
    pale = even.mean(-1, keepdims=True)
    return (pale + saturation * (even - pale)) * level * cast


def _sky(
    linear: np.ndarray, mask: np.ndarray, top: np.ndarray, bottom: np.ndarray, keep: float
) -> np.ndarray:
    """A gradient from the image's top to the lowest sky, in which a share of the day's clouds is kept."""
    low = np.nonzero(mask.any(1))[0]
    end = max(int(low.max()) if len(low) else 1, 1)
    share = np.clip(np.arange(linear.shape[0]) / end, 0, 1)[:, None, None]
    gradient = top * (1 - share) + bottom * share
    grey = linear.mean(-1, keepdims=True)
    mean = grey[mask].mean() if mask.any() else 1.0
    return gradient * ((1 - keep) + keep * grey / max(mean, 0.05))


def _lamps(
    found: np.ndarray,
    day: np.ndarray,
    masks: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    power: float,
    share: float,
    windows: float,
) -> np.ndarray:
    """Head or tail lights on that share of the vehicles, and lit windows on buildings, with their glow."""
    from scipy import ndimage

    height, width = found.shape[:2]
    light = np.zeros_like(found)
    parts, _ = ndimage.label(masks["car"])
    for where in ndimage.find_objects(parts):
        rows, columns = where
        h, w = rows.stop - rows.start, columns.stop - columns.start
        if h < 0.02 * height or w < 0.02 * width or rng.random() > share:
            continue
        colour = np.array(_RED if rng.random() < 0.5 else _WHITE)
        radius = max(1, round(0.05 * h))
        for side in (0.16, 0.84):
            y, x = int(rows.start + h * rng.uniform(0.5, 0.62)), int(columns.start + w * side)
            place = (slice(max(y - radius, 0), y + radius), slice(max(x - radius, 0), x + radius))
            light[place] = np.where(masks["car"][place][..., None], colour, light[place])
    places = np.argwhere(masks["building"])
    for y, x in places[rng.integers(0, max(len(places), 1), int(windows * 14))] if len(places) else ():
        h, w = max(1, int(height * rng.uniform(0.008, 0.03))), max(1, int(width * rng.uniform(0.006, 0.02)))
        light[y : y + h, x : x + w] = np.array(_WARM) * rng.uniform(0.2, 0.8)
    scale = _scale(found)
    light = np.clip(1.4 * _blur(light, scale * 0.003), 0, 1)
    glow = 1.2 * _blur(light, scale * 0.01) + 2.5 * _blur(light, scale * 0.035)
    return np.maximum(found, light * min(1.0, 2 * power)) + power * glow * (0.3 + day)


def _camera(linear: np.ndarray, rng: np.random.Generator, noise: float, blur: float) -> np.ndarray:
    """Back to displayed values in 0..1, with the grain and the softness of little light."""
    shown = np.clip(linear, 0, 1) ** (1 / 2.2)
    if blur > 0.05:
        shown = _blur(shown, blur * _scale(linear) / 360.0)
    return shown + rng.normal(0, noise, shown.shape) + rng.normal(0, noise / 2, shown.shape[:2])[..., None]


def _scale(image: np.ndarray) -> float:
    """The short side in pixels: lengths are fractions of it."""
    return float(min(image.shape[:2]))


def _soft(mask: np.ndarray, radius: float) -> np.ndarray:
    return _blur(mask[..., None].astype(np.float64), radius)[..., 0]


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of (H, W, C) over the image plane; wide ones as three box means, which take the same time
    at any radius."""
    from scipy import ndimage

    if radius < 3:
        return ndimage.gaussian_filter(image, (radius, radius, 0))
    size = round(radius * 1.88) | 1
    for _ in range(3):
        image = ndimage.uniform_filter(image, (size, size, 1))
    return image


_APPEARANCES: Mapping[str, Callable] = {"dusk": _dusk, "night": _night, "fog": _fog}
