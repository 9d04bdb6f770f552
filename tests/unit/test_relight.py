"""Relighting of day images by their label maps: what darkens, what stays bright, what is drawn anew for each
evening."""

import numpy as np
import pytest

from diffadapt.core.errors import RecipeError
from diffadapt.data.scenes.relight import CAPTIONS, relight

NAMES = ("Sky", "Building", "Road", "Car")


@pytest.fixture
def scene():
    """A bright sky over a wall, a road and a car."""
    annotation = np.repeat(np.array([0, 0, 1, 2], np.uint8), 24)[:, None] * np.ones((1, 128), np.uint8)
    annotation[60:80, 30:70] = 3
    annotation[:, 120:] = 255
    colours = np.array([(190, 210, 235), (150, 120, 100), (110, 110, 112), (160, 40, 40)], np.uint8)
    image = colours[np.minimum(annotation, 3)]
    return image, annotation


def found(scene, appearance, seed=0, names=NAMES):
    return relight(*scene, names, appearance, np.random.default_rng(seed))


def level(image, mask):
    return float(image[mask].mean())


def test_dusk_keeps_the_sky_bright_and_the_street_dark(scene):
    image, annotation = scene
    for seed in range(5):
        dusk = found(scene, "dusk", seed)
        assert dusk.shape == image.shape and dusk.dtype == np.uint8
        street = annotation == 2
        assert level(dusk, street) < 0.65 * level(image, street)
        assert level(dusk, annotation == 0) > 1.5 * level(dusk, street)


def test_night_is_darker_than_dusk_and_its_sky_is_dark(scene):
    _, annotation = scene
    night, dusk = found(scene, "night"), found(scene, "dusk")
    assert night.mean() < 0.6 * dusk.mean()
    assert level(night, annotation == 0) < 60


def test_lamps_are_on_cars_alone(scene):
    cars, bare = ("Sky", "Thing", "Road", "Car"), ("Sky", "Thing", "Road", "Thing")
    lit = [
        np.abs(found(scene, "night", s, cars).astype(int) - found(scene, "night", s, bare)).max(-1) > 90
        for s in range(6)
    ]
    assert any(mask.any() for mask in lit)
    for mask in lit:
        near = np.zeros_like(mask)
        near[56:84, 26:74] = True
        assert not (mask & ~near).any()


def test_fog_takes_contrast(scene):
    image, annotation = scene
    fog = found(scene, "fog")
    assert (
        fog.std() < 0.7 * image.std()
        and np.abs(fog[annotation == 0].astype(int) - fog[40].astype(int).mean()).mean() < 60
    )


def test_an_evening_is_its_seed(scene):
    for appearance in CAPTIONS:
        assert np.array_equal(found(scene, appearance, 3), found(scene, appearance, 3))
        assert not np.array_equal(found(scene, appearance, 3), found(scene, appearance, 4))


def test_any_classes_will_do(scene):
    """Names as other data sets write them; without a sky or a car there is just less to do."""
    assert np.array_equal(
        found(scene, "dusk", 1), found(scene, "dusk", 1, ("sky", "building", "road", "car"))
    )
    image, annotation = scene
    for appearance in CAPTIONS:
        plain = relight(image, np.full_like(annotation, 255), (), appearance, np.random.default_rng(0))
        assert plain.shape == image.shape and (appearance == "fog" or plain.mean() < 0.7 * image.mean())


def test_an_unknown_appearance_is_said(scene):
    with pytest.raises(RecipeError, match="'dask' is not known.*dusk"):
        found(scene, "dask")
