"""Views of an image: sizes, determinism, what each preset does, and RandAugment's operations."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffadapt.data.resize import squash
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.preprocess import prepare_image
from diffadapt.tasks.classification.augment_views import (
    make_views,
    preparation,
    random_crop,
    random_resized_crop,
)
from diffadapt.tasks.classification.randaugment import OPERATIONS, cutout, randaugment

COLOUR = ClassifierConfig(name="train", resize=64, crop=56, crop_mode="squash")
GREY = ClassifierConfig(name="train", resize=0, crop=16, in_channels=1, crop_mode="squash")
PRESETS = ("uda", "crop", "center", "shift", "none")


def picture(height=80, width=60, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return squash(np.repeat(np.repeat(coarse, height // 8 + 1, 0), width // 8 + 1, 1)[:height, :width], 0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("inputs", "image"),
    [
        (COLOUR, picture()),
        (COLOUR, picture(channels=1)),
        (GREY, picture(16, 16, 1)),
        (GREY, picture(16, 16, 3)),
    ],
)
def test_views_have_the_networks_size_and_follow_their_seed(preset, inputs, image):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), image.copy()
    for kind, augment in make_views(preset, inputs, flip=True).items():
        first, again = augment(image, 3), augment(image, 3)
        assert first.dtype == torch.uint8 and first.shape == (inputs.in_channels, inputs.crop, inputs.crop)
        assert torch.equal(first, again)
        moves = kind == "strong" or (kind == "weak" and preset != "none")
        assert moves == any(not torch.equal(first, augment(image, seed)) for seed in range(4, 12))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all() and (before[3] == image).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_test_view_of_a_square_image_is_what_prediction_sees(preset):
    square = picture(90, 90)
    seen = make_views(preset, COLOUR, True)["test"](square, 0)
    assert torch.equal(seen, torch.from_numpy(prepare_image(square, COLOUR)).permute(2, 0, 1))


def test_squashed_presets_show_the_sides_of_a_wide_image():
    wide = picture(50, 200)
    seen = make_views("uda", COLOUR, False)["test"](wide, 0).permute(1, 2, 0).numpy()
    assert np.array_equal(seen, squash(wide, 64)[4:60, 4:60])
    assert np.array_equal(seen, prepare_image(wide, COLOUR))
    assert not np.array_equal(seen, prepare_image(wide, replace(COLOUR, crop_mode="center")))


@pytest.mark.parametrize("preset", PRESETS)
def test_preparation_changes_no_view(preset):
    image, prepare = picture(70, 100), preparation(preset, COLOUR)
    assert (prepare is None) == (preset in ("shift", "none"))
    assert preparation(preset, replace(COLOUR, crop_mode="center")) is None
    kept = image if prepare is None else prepare(image)
    for augment in make_views(preset, COLOUR, True).values():
        assert all(torch.equal(augment(image, s), augment(kept, s)) for s in range(5))


def test_flip_mirrors_half_of_the_weak_views_and_only_when_asked():
    image = picture(64, 64)
    plain = make_views("center", COLOUR, False)["weak"]
    centre, flipped = plain(image, 0), make_views("center", COLOUR, True)["weak"]
    assert all(torch.equal(plain(image, s), centre) for s in range(10))
    seen = [torch.equal(flipped(image, s), centre) for s in range(200)]
    assert (
        all(same or torch.equal(flipped(image, s), centre.flip(2)) for s, same in enumerate(seen))
        and 70 < sum(seen) < 130
    )


def test_random_resized_crop_takes_parts_of_every_size():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 1))
    spans = [
        int(np.ptp(random_resized_crop(np.ascontiguousarray(ramp), 32, np.random.default_rng(s))))
        for s in range(300)
    ]
    assert min(spans) < 80 and max(spans) > 170 and 95 < np.mean(spans) < 160


def test_a_scale_bounds_what_the_weak_and_the_strong_view_crop():
    ramp = np.ascontiguousarray(
        np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 64, 3))
    )
    inputs = ClassifierConfig(resize=64, crop=32)

    def smallest(*scale):
        weak = make_views("uda", inputs, False, *scale)["weak"]
        return min(int(np.ptp(weak(ramp, seed).numpy())) for seed in range(200))

    assert smallest() < 100 and smallest((0.5, 1.0)) > 130
    assert make_views("uda", inputs, False, (0.5, 1.0))["strong"].weak.scale == (0.5, 1.0)


def test_random_crop_keeps_the_size_of_things():
    ramp = np.ascontiguousarray(np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3)))
    crops = [random_crop(ramp, 56, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(np.ptp(c)) for c in crops} == {55} and {int(c.min()) for c in crops} == set(range(9))
    assert random_crop(picture(20, 30), 24, np.random.default_rng(0)).shape == (24, 24, 3)


def test_a_crop_fits_where_no_aspect_ratio_does():
    thin = picture(4, 300)
    assert random_resized_crop(thin, 16, np.random.default_rng(0)).shape == (16, 16, 3)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_operation_keeps_size_and_mode(name, mode):
    image = Image.fromarray(picture(32, 32, 3)).convert(mode)
    apply, low, high = OPERATIONS[name]
    changed = [
        not np.array_equal(np.asarray(apply(image, v)), np.asarray(image)) for v in np.linspace(low, high, 9)
    ]
    made = apply(image, high)
    assert made.size == image.size and made.mode == mode
    assert any(changed) == (name != "Identity" and not (mode == "L" and name == "Color"))


def test_there_are_fourteen_operations_with_the_published_ranges():
    assert len(OPERATIONS) == 14
    assert {OPERATIONS[n][1:] for n in ("Brightness", "Color", "Contrast", "Sharpness")} == {(0.05, 0.95)}
    assert OPERATIONS["Rotate"][1:] == (-30, 30) and OPERATIONS["ShearX"][1:] == OPERATIONS["TranslateY"][
        1:
    ] == (-0.3, 0.3)


def test_cutout_fills_at_most_a_quarter_and_leaves_the_original():
    image = Image.fromarray(np.full((32, 32, 3), 200, np.uint8))
    filled = [(np.asarray(cutout(image, np.random.default_rng(s))) == 127).all(-1).mean() for s in range(200)]
    assert max(filled) <= 0.27 and np.mean(filled) > 0.03 and (np.asarray(image) == 200).all()


def test_strong_views_are_stronger():
    image = picture(64, 64)
    views = make_views("center", COLOUR, False)
    test, strong = views["test"](image, 0).float(), [views["strong"](image, s).float() for s in range(40)]
    assert np.mean([float((test - s).abs().mean()) for s in strong]) > 10
    assert len({s.numpy().tobytes() for s in strong}) > 30
    assert randaugment(Image.fromarray(image), np.random.default_rng(0)).size == (64, 64)
