"""Fake data sets with the official names of Cityscapes, ACDC and others, for tests: random layouts of a few
rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffadapt.data.scenes.cityscapes import CITYSCAPES_IDS
from diffadapt.data.scenes.palettes import paint_ids

CITYSCAPES_SIZE = (1024, 2048)
ACDC_SIZE = (1080, 1920)


def label_ids(
    size: tuple[int, int], seed: int, values: Sequence[int] = (0, 4, *CITYSCAPES_IDS)
) -> np.ndarray:
    """uint8 (H, W): bands and rectangles of ``values``, reproducible."""
    rng = np.random.default_rng(seed)
    height, width = size
    ids = np.zeros(size, np.uint8)
    bands = np.sort(rng.integers(0, height, 3))
    for start, value in zip((0, *bands), rng.choice(values, 4), strict=True):
        ids[start:] = value
    for _ in range(6):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + max(1, height // 5), x : x + max(1, width // 6)] = rng.choice(values)
    return ids


def picture(ids: np.ndarray, seed: int) -> np.ndarray:
    """uint8 (H, W, 3): every id in a colour of its own, with a little noise."""
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    noise = np.random.default_rng(seed).integers(-9, 10, (*ids.shape, 1))
    return np.clip(colours[ids] + noise, 0, 255).astype(np.uint8)


def train_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' labelIds as trainIds (255: not evaluated)."""
    lookup = np.full(256, 255, np.uint8)
    lookup[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return lookup[ids]


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(array).save(path, **options)


def fake_cityscapes(
    root: Path | str,
    cities: Mapping[str, int] | None = None,
    size: tuple[int, int] = (32, 64),
    split: str = "train",
    *,
    labels: Sequence[str] = ("labelIds",),
    colours: bool = True,
) -> list[str]:
    """``{city: images}`` in one split of a Cityscapes tree; call it again for another split. ``size`` is
    CITYSCAPES_SIZE officially; ``labels`` may hold labelIds and labelTrainIds. Returns the scenes' keys,
    sorted."""
    keys = []
    for city, count in (cities or {"aachen": 2, "bochum": 1}).items():
        for i in range(count):
            key, seed = f"{city}/{city}_{i:06d}_000019", len(keys) + sum(map(ord, split + city))
            ids = label_ids(size, seed)
            save(Path(root) / f"leftImg8bit/{split}/{key}_leftImg8bit.png", picture(ids, seed))
            base = Path(root) / f"gtFine/{split}"
            if "labelIds" in labels:
                save(base / f"{key}_gtFine_labelIds.png", ids)
            if "labelTrainIds" in labels:
                save(base / f"{key}_gtFine_labelTrainIds.png", train_ids(ids))
            if colours:
                painted = _raw_colours(ids)
                save(base / f"{key}_gtFine_color.png", np.dstack([painted, np.full(size, 255, np.uint8)]))
            keys.append(key)
    return sorted(keys)


def fake_acdc(
    root: Path | str,
    counts: Mapping[str, int] | None = None,
    size: tuple[int, int] = (30, 48),
    split: str = "val",
    *,
    labels: Sequence[str] = ("labelTrainIds",),
) -> list[str]:
    """``{condition: images}`` in one split of an ACDC tree (ACDC_SIZE officially); no labels for the test
    split. Returns the keys, sorted."""
    keys = []
    for condition, count in (counts or {"fog": 2, "night": 2}).items():
        for i in range(count):
            sequence = f"GOPR{475 + i % 2:04d}"
            key, seed = (
                f"{condition}/{sequence}/{sequence}_frame_{i:06d}",
                len(keys) + sum(map(ord, split + condition)),
            )
            ids = label_ids(size, seed)
            below = key.removeprefix(f"{condition}/")
            save(Path(root) / f"rgb_anon/{condition}/{split}/{below}_rgb_anon.png", picture(ids, seed) // 2)
            for form in labels if split != "test" else ():
                array = train_ids(ids) if form == "labelTrainIds" else ids
                save(Path(root) / f"gt/{condition}/{split}/{below}_gt_{form}.png", array)
            keys.append(key)
    return sorted(keys)


def _raw_colours(ids: np.ndarray) -> np.ndarray:
    import io

    out = io.BytesIO()
    Image.fromarray(ids).save(out, "PNG")
    return paint_ids(out.getvalue(), "fake")
