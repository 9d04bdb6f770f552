"""Pictures for the report: sizes, places, colours of right and wrong."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffadapt.report.panels import (
    RIGHT,
    SMALLEST,
    WRONG,
    GradCamCell,
    GradCamRow,
    before_after_grid,
    figures_index,
    fit_size,
    gradcam_panel,
    heat_colours,
    image_grid,
    overlay,
)


def flat(value, side=16, channels=1):
    return np.full((side, side, channels), value, np.uint8)


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def has_colour(array, colour):
    return (np.abs(array - np.array(colour)).max(axis=-1) < 12).any()


def test_small_images_grow_by_whole_factors_and_stay_exact():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    grown = fit_size(image)
    assert grown.shape == (SMALLEST, SMALLEST, 3) and np.array_equal(grown[::6, ::6, 0], image)
    assert fit_size(flat(0, 500)).shape == (224, 224, 3) and fit_size(flat(7, 100)).shape == (100, 100, 3)


def test_only_images_are_taken():
    with pytest.raises(ValueError, match="uint8"):
        fit_size(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="must be"):
        fit_size(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match="at least one"):
        image_grid([[None]])


def test_the_grid_holds_its_images_in_order():
    grid = image_grid([[flat(10), flat(60)], [flat(110), None]])
    assert grid.dtype == np.uint8 and grid.shape == (2 * 48 + 3 * 6, 2 * 48 + 3 * 6, 3)
    assert (
        (grid[6:54, 6:54] == 10).all()
        and (grid[6:54, 60:108] == 60).all()
        and (grid[60:108, 6:54] == 110).all()
        and (grid[60:108, 60:108] == 255).all()
    )


def test_labels_take_room_and_leave_ink_but_never_cover_an_image():
    bare, labelled = (
        image_grid([[flat(10)]]),
        image_grid([[flat(10)]], ["a row"], ["a very long column name indeed, much too long"]),
    )
    assert labelled.shape[0] > bare.shape[0] and labelled.shape[1] > bare.shape[1]
    outside = labelled.copy()
    outside[-54:-6, -54:-6] = 255
    assert (labelled[-54:-6, -54:-6] == 10).all() and (outside < 100).any()


def test_before_stands_left_and_after_right_paired_by_key():
    data = opened(
        before_after_grid(
            {"b": [flat(10), flat(20)], "alone": [flat(5)], "a": [flat(30)]},
            {"a": [flat(130)], "b": [flat(110), flat(120)]},
        )
    )

    def values(line):
        return [v for i, v in enumerate(line) if v != 255 and i >= 20 and line[i - 1] != v]

    top, bottom = (data[data.shape[0] - 6 - k, :, 0] for k in (60, 10))
    assert values(top) == [10, 20, 110, 120] and values(bottom) == [30, 130]
    with pytest.raises(ValueError, match="at least one"):
        before_after_grid({"a": [flat(1)]}, {"b": [flat(1)]})


def test_the_panel_shows_right_in_green_and_wrong_in_red():
    def panel(right):
        return opened(
            gradcam_panel(
                [GradCamRow("fog/5", [GradCamCell(flat(128), np.zeros((4, 4)), "seven", right), None])]
            )
        )

    assert has_colour(panel(True), RIGHT) and not has_colour(panel(True), WRONG)
    assert has_colour(panel(False), WRONG) and not has_colour(panel(False), RIGHT)
    unknown = panel(None)
    assert not has_colour(unknown, RIGHT) and not has_colour(unknown, WRONG)


def test_heat_is_warm_where_it_is_high_and_survives_nan():
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    mixed = overlay(np.zeros((64, 64, 3), np.uint8), heat).astype(int)
    assert mixed[32, 60, 0] > mixed[32, 60, 2] and mixed[32, 4, 2] > mixed[32, 4, 0]
    assert overlay(np.zeros((8, 8, 3), np.uint8), np.full((2, 2), np.nan)).shape == (8, 8, 3)
    assert np.allclose(heat_colours(np.array([[0.0, 1.0]])), [[[20, 30, 120], [215, 25, 30]]])


def test_the_index_is_what_the_report_reads():
    section = {"title": "t", "caption": "c", "image": "x.png", "alt": "a"}
    assert json.loads(figures_index([section])) == {"sections": [section]}
    with pytest.raises(AssertionError):
        figures_index([{"title": "t"}])
