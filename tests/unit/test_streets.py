"""Procedural streets: deterministic, one geometry for all conditions, other worlds apart, light that changes
what is seen."""

import hashlib

import numpy as np
import pytest

from diffadapt.core.errors import DataError
from diffadapt.worlds.streets.conditions import CONDITIONS
from diffadapt.worlds.streets.scenes import COUNTS, OBJECT_CLASSES, SIZE, STREET_CLASSES, StreetScene

NAMES = [name for name, _ in STREET_CLASSES]


def luma(image):
    return float((image @ np.array([0.299, 0.587, 0.114])).mean())


def test_a_scene_is_a_function_of_its_name():
    for condition in CONDITIONS:
        a, b = StreetScene(condition, "train", 3), StreetScene(condition, "train", 3)
        first = a.image
        assert StreetScene("day", "test", 5).image.any()  # another scene in between changes nothing
        assert np.array_equal(first, b.image) and first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
        assert np.array_equal(a.annotation, b.annotation) and a.objects == b.objects


def test_geometry_is_that_of_no_condition():
    for index in range(3):
        scenes = [StreetScene(c, "test", index) for c in CONDITIONS]
        assert all(
            np.array_equal(s.annotation, scenes[0].annotation) and s.objects == scenes[0].objects
            for s in scenes
        )
        images = [s.image for s in scenes]
        assert all(np.abs(a.astype(int) - b).mean() > 5 for i, a in enumerate(images) for b in images[:i])


def test_splits_share_no_scene():
    seen = {
        hashlib.sha256(StreetScene("day", split, i).annotation.tobytes()).hexdigest()
        for split in COUNTS
        for i in range(8)
    }
    assert len(seen) == 8 * len(COUNTS)


def test_every_class_is_there_and_little_is_ignored():
    counts = np.zeros(256)
    for i in range(30):
        counts += np.bincount(StreetScene("day", "train", i).annotation.ravel(), minlength=256)
    share = counts / counts.sum()
    assert (share[: len(NAMES)] > 0.005).all() and 0 < share[255] < 0.06
    assert share[: len(NAMES)].sum() + share[255] == pytest.approx(1.0)


def test_light_is_what_the_condition_says():
    def mean(condition, what=luma, count=8, split="test"):
        return np.mean([what(StreetScene(condition, split, i).image) for i in range(count)])

    def contrast(image):
        return float(image.mean(-1).std())

    assert mean("night") < 0.4 * mean("day") and mean("night") < mean("dusk") < 0.8 * mean("day")
    assert mean("fog", contrast) < 0.8 * mean("day", contrast)
    assert mean("snow") > mean("rain")
    # The generator's world is darker and lighter than the one it is used in, not the same.
    spread = {
        split: np.std([luma(StreetScene("night", split, i).image) for i in range(24)])
        for split in ("test", "pretrain")
    }
    assert spread["pretrain"] > spread["test"]


def test_objects_lie_on_their_pixels():
    found = 0
    for i in range(20):
        scene = StreetScene("day", "val", i)
        for thing in scene.objects:
            x1, y1, x2, y2 = thing["bbox"]
            assert (
                0 <= x1 < x2 <= SIZE
                and 0 <= y1 < y2 <= SIZE
                and NAMES[thing["category"]] in OBJECT_CLASSES
                and thing["crowd"] is False
            )
            inside = scene.annotation[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
            assert (inside == thing["category"]).any()
            found += 1
    assert found > 60


@pytest.mark.parametrize(
    "wrong, words",
    [
        (("nigth", "train", 0), "'nigth'.*night"),
        (("day", "trian", 0), "'trian'.*train"),
        (("day", "val", 64), "0 to 63, not 64"),
        (("day", "val", -1), "not -1"),
    ],
)
def test_a_wrong_name_is_said(wrong, words):
    with pytest.raises(DataError, match=words):
        StreetScene(*wrong)
