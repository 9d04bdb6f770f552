"""The 15 corruption types: determinism, forms, strength by severity, and what each one must do."""

import io
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diffadapt.core.errors import DataError, ItemError
from diffadapt.data.config import CORRUPTIONS, TRAINING_CORRUPTIONS
from diffadapt.data.corruptions import corrupt, corruption_label, generator
from diffadapt.data.corruptions.blur import _convolve, _disc, smear
from diffadapt.data.corruptions.digital import _shrunk
from diffadapt.data.corruptions.frost import OFFICIAL
from diffadapt.data.corruptions.lengths import enlarge
from diffadapt.data.corruptions.weather import plasma
from diffadapt.data.embedded import digits


def scene(size: int, seed: int, channels: int = 3, width: int | None = None) -> np.ndarray:
    """A natural-looking picture: shapes with edges on a shaded ground, and fine texture."""
    width = width or size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :width] / size
    out = np.stack([0.3 + 0.3 * x * a + 0.2 * y * b for a, b in rng.uniform(-1, 1, (3, 2))], -1)
    for _ in range(12):
        cy, cx, r = rng.uniform(0, 1), rng.uniform(0, width / size), rng.uniform(0.05, 0.25)
        out[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rng.uniform(0, 1, 3)
    out += 0.03 * ndimage.gaussian_filter(rng.standard_normal(out.shape), (0.7, 0.7, 0))
    return (np.clip(out[:, :, :channels], 0, 1) * 255).astype(np.uint8)


@lru_cache(maxsize=4)
def pictures(kind: str) -> tuple[np.ndarray, ...]:
    if kind == "digits16":
        return tuple(digits("test")[1][::15])
    return tuple(scene(int(kind), seed) for seed in range({"224": 4, "32": 24}[kind]))


# Steps (severity before -> after) whose published parameters trade one thing against another: see the
# package's docstring.
TRADED = {
    ("glass_blur", 1), ("glass_blur", 3), ("frost", 3), ("elastic_transform", 2),
    ("snow", 2), ("pixelate", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["digits16", "32", "224"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_rises_and_even_the_first_is_visible(name, kind):
    error = [
        np.mean(
            [np.mean((corrupt(p, name, s, i).astype(float) - p) ** 2) for i, p in enumerate(pictures(kind))]
        )
        for s in range(1, 6)
    ]
    assert error[0] > 2, "the lightest severity must be visible"
    for step in range(1, 5):
        exempt = (name, step) in TRADED and not (kind == "224" and name in ("snow", "pixelate"))
        assert exempt or error[step] > error[step - 1], (step, error)
    if name != "elastic_transform":
        assert error[4] > 1.3 * error[0] and error[4] > error[1]


@pytest.mark.parametrize(
    "shape", [(224, 224, 3), (33, 47, 3), (64, 31, 1), (16, 16, 1), (4, 5, 3), (300, 240, 1)]
)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_shape_keeps_its_form(name, shape):
    image = scene(shape[0], 3, shape[2], shape[1])
    before = image.copy()
    for severity in (1, 5):
        out = corrupt(image, name, severity, 5)
        assert out.dtype == np.uint8 and out.shape == shape
        assert np.array_equal(image, before), "the input must stay as it is"
        assert np.any(out != image)


RANDOM = set(CORRUPTIONS) - {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_seed_decides(name):
    image = scene(40, 1)
    first = corrupt(image, name, 3, 12345678901234567)
    np.random.seed(0)
    assert np.array_equal(first, corrupt(image, name, 3, 12345678901234567))
    assert np.array_equal(first, corrupt(image, name, 3, 2)) == (name not in RANDOM)


@pytest.mark.parametrize("name", TRAINING_CORRUPTIONS)
def test_training_types_are_seeded_rise_with_severity_and_keep_the_form(name):
    assert name not in CORRUPTIONS
    for shape in ((40, 33, 3), (16, 16, 1), (5, 4, 3)):
        image = scene(shape[0], 1, shape[2], shape[1])
        out = [corrupt(image, name, s, 7) for s in range(1, 6)]
        assert all(o.dtype == np.uint8 and o.shape == shape for o in out)
        assert np.array_equal(out[2], corrupt(image, name, 3, 7))
        assert np.array_equal(out[2], corrupt(image, name, 3, 8)) == (name in ("gaussian_blur", "saturate"))
    if name == "saturate":
        assert np.array_equal(corrupt(pictures("digits16")[0], name, 5, 0), pictures("digits16")[0])
        hue = scene(20, 2).max(axis=2)
        assert np.abs(corrupt(scene(20, 2), name, 1, 0).max(axis=2).astype(int) - hue).max() <= 1
        return
    errors = [
        np.mean(
            [np.mean((corrupt(p, name, s, i).astype(float) - p) ** 2) for i, p in enumerate(pictures("32"))]
        )
        for s in range(1, 6)
    ]
    assert errors == sorted(errors) and errors[0] > 2, errors


def test_types_draw_unrelated_noise():
    a, b = (generator(1, name).standard_normal(1000) for name in ("gaussian_noise", "snow"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.08, 0.12, 0.18, 0.26, 0.38), 1))
def test_gaussian_noise_has_the_published_deviation(severity, sigma):
    image = np.full((224, 224, 3), 127, np.uint8)
    out = corrupt(image, "gaussian_noise", severity, 0) / 255.0
    noise = np.random.default_rng(1).standard_normal(200_000) * sigma
    assert abs(out.std() - np.clip(127 / 255 + noise, 0, 1).std()) < 0.003
    assert abs(out.mean() - 127 / 255) < 0.005
    assert abs(np.corrcoef(out[..., 0].ravel(), out[..., 1].ravel())[0, 1]) < 0.02


def test_shot_noise_is_poisson():
    for severity, photons in enumerate((60, 25, 12, 5, 3), 1):
        out = corrupt(np.full((224, 224, 1), 77, np.uint8), "shot_noise", severity, 0) / 255.0
        assert abs(out.mean() - 77 / 255) < 0.01
        assert abs(out.var() - 77 / 255 / photons) < 0.12 * 77 / 255 / photons
    assert not corrupt(np.zeros((32, 32, 3), np.uint8), "shot_noise", 5, 0).any()


def test_impulse_noise_hits_the_published_fraction_evenly():
    image = np.full((224, 224, 3), 100, np.uint8)
    for severity, amount in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        out = corrupt(image, "impulse_noise", severity, 0)
        assert set(np.unique(out)) == {0, 100, 255}
        assert (
            abs(np.mean(out != 100) - amount) < 0.005 and abs(np.mean(out == 0) - np.mean(out == 255)) < 0.005
        )


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]
)
@pytest.mark.parametrize("size", [224, 32])
def test_blurs_and_moves_keep_a_flat_image(name, size):
    image = np.full((size, size, 3), (200, 90, 30), np.uint8)
    for severity in range(1, 6):
        assert np.abs(corrupt(image, name, severity, 0).astype(int) - image).max() <= 2


def test_defocus_equals_a_direct_convolution_with_mirrored_borders():
    x = scene(40, 2) / 255.0
    kernel = _disc(6, 0.5, 1)
    assert kernel.shape == (17, 17) and np.allclose(kernel, kernel.T)
    direct = np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], -1)
    assert np.allclose(_convolve(x, kernel), direct, atol=1e-12)
    assert (_disc(3, 0.1, 1) > 1e-6).sum() == 29, "pixels whose centre is within three pixels"
    for factor in (1 / 7, 0.5, 2.0):
        assert abs(_disc(10, 0.5, factor).sum() - 1) < 1e-9


def test_smear_is_one_sided_along_its_angle():
    point = np.zeros((41, 41, 1))
    point[20, 20] = 1
    level = smear(point, 10, 3, 0.0)[..., 0]
    assert np.nonzero(level.sum(1))[0].tolist() == [20] and np.nonzero(level[20])[0].tolist() == list(
        range(0, 21)
    )
    weights = np.exp(-0.5 * (np.arange(21) / 3) ** 2)
    assert np.allclose(level[20, 20::-1], weights / weights.sum())
    upright = smear(point, 10, 3, -90.0)[..., 0]
    assert np.nonzero(upright.sum(0))[0].tolist() == [20] and upright[20:, 20].sum() == pytest.approx(1)
    assert smear(np.ones((9, 9, 1)), 4, 2, 30.0) == pytest.approx(1)


def test_glass_blur_moves_pixels_between_its_two_blurs():
    image = np.zeros((224, 224, 3), np.uint8)
    image[:, 112:] = 240
    out = corrupt(image, "glass_blur", 5, 0).astype(int)
    plain = ndimage.gaussian_filter(image.astype(float), (1.5 * 2**0.5, 1.5 * 2**0.5, 0), mode="nearest")
    assert np.abs(out - plain)[:, 100:124].mean() > 5, "more than blur alone near the edge"
    assert np.abs(out - plain)[:, :80].max() < 2 and np.abs(out - plain)[:, 150:].max() < 2


def test_zoom_samples_the_middle():
    ramp = np.tile(np.arange(32.0)[None, :, None], (32, 1, 1))
    out = enlarge(ramp, 1.25)
    assert np.allclose(out[5, :, 0] - 15.5, (np.arange(32) - 15.5) / 1.25)
    large = np.tile(np.arange(224.0)[None, :, None], (224, 1, 1))
    assert np.array_equal(enlarge(large, 1.0), large)
    # ceil(224 / 1.3) = 173 samples from 25 on, stretched with aligned corners to round(224.9) = 225.
    assert np.allclose(enlarge(large, 1.3)[0, :, 0], 25 + np.arange(224) * 172 / 224)


@pytest.mark.parametrize(("severity", "c"), enumerate((0.4, 0.3, 0.2, 0.1, 0.05), 1))
def test_contrast_is_the_published_formula(severity, c):
    image = scene(50, 4)
    x = image.astype(float)
    mean = x.mean((0, 1))
    assert np.abs(corrupt(image, "contrast", severity, 0) - np.floor((x - mean) * c + mean + 1e-6)).max() == 0


def test_brightness_raises_value_and_keeps_hue_and_saturation():
    import colorsys

    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image[0, 0] = 0
    out = corrupt(image, "brightness", 2, 0)
    for before, after in zip(image.reshape(-1, 3) / 255, out.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert np.abs(np.array(colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1))) * 255 - after).max() < 1.01
    grey = np.array([[[0], [100]], [[200], [255]]], np.uint8).repeat(4, 0).repeat(4, 1)
    assert np.unique(corrupt(grey, "brightness", 5, 0)).tolist() == [127, 227, 255]


@pytest.mark.parametrize(("severity", "quality"), enumerate((25, 18, 15, 10, 7), 1))
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(severity, quality, channels):
    image = scene(60, 5, channels, 44)
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if channels == 1 else image).save(out, "JPEG", quality=quality)
    assert np.array_equal(
        corrupt(image, "jpeg_compression", severity, 0), np.asarray(Image.open(out)).reshape(image.shape)
    )


def test_pixelate_sizes():
    assert [_shrunk(224, s) for s in range(1, 6)] == [134, 112, 89, 67, 56]
    for n in (4, 8, 16, 20, 32, 50):
        sizes = [_shrunk(n, s) for s in range(1, 6)]
        assert sizes == sorted(set(sizes), reverse=True) and sizes[-1] >= 1
    image = scene(224, 6)
    small = Image.fromarray(image).resize((56, 56), Image.Resampling.BOX)
    assert np.array_equal(
        corrupt(image, "pixelate", 5, 0), np.asarray(small.resize((224, 224), Image.Resampling.BOX))
    )


def test_plasma_is_a_rougher_field_for_a_smaller_decay():
    fields = [plasma(128, decay, np.random.default_rng(0)) for decay in (3.0, 2.0, 1.4)]
    rough = [np.abs(np.diff(f, axis=0)).mean() for f in fields]
    assert rough[0] < rough[1] < rough[2]
    for f in fields:
        assert f.min() == 0 and f.max() == 1 and np.isfinite(f).all()
    wrap = np.abs(fields[1][0] - fields[1][-1]).mean()
    assert wrap < 4 * np.abs(np.diff(fields[1], axis=0)).mean(), "the map is periodic"


def test_fog_keeps_the_maximum_and_lowers_contrast():
    image = scene(224, 7)
    out = corrupt(image, "fog", 5, 0)
    assert out.max() <= image.max() and out.std() < image.std()
    assert not corrupt(np.zeros((16, 16, 3), np.uint8), "fog", 5, 0).any()


def test_snow_only_brightens():
    image = scene(64, 8)
    for severity in range(1, 6):
        assert np.all(corrupt(image, "snow", severity, 0) >= image)


@pytest.mark.parametrize(("severity", "amplitude"), [(3, 12.2), (4, 17.08), (5, 29.28)])
def test_elastic_displaces_by_smoothed_noise_of_the_published_size(severity, amplitude):
    ramp = np.tile(np.arange(224, dtype=np.uint8)[None, :, None], (224, 1, 1))
    y, x = np.mgrid[20:204, 20:204]
    plane = np.c_[x.ravel(), y.ravel(), np.ones(x.size)]
    found = []
    for seed in range(4):
        columns = corrupt(ramp, "elastic_transform", severity, seed)[20:204, 20:204, 0].ravel() + 0.5
        affine, *_ = np.linalg.lstsq(plane, columns, rcond=None)
        found.append((columns - plane @ affine).var() - 1 / 12)
    # Uniform noise of deviation 1/sqrt(3), smoothed by a Gaussian of 2.44 pixels in the plane.
    expected = amplitude / np.sqrt(3) / (2 * np.sqrt(np.pi) * 2.44)
    assert np.sqrt(np.mean(found)) == pytest.approx(expected, rel=0.1)


def test_elastic_borders_are_mirrored():
    flat = corrupt(np.full((64, 64, 3), 99, np.uint8), "elastic_transform", 2, 0)
    assert np.abs(flat.astype(int) - 99).max() <= 1


def test_official_frost_textures(tmp_path):
    with pytest.raises(DataError, match="frost1.png|frost2.png|frost3.png|frost4.jpg|frost5.jpg"):
        corrupt(scene(32, 0), "frost", 1, 0, textures=str(tmp_path))
    for name in OFFICIAL:
        Image.fromarray(np.full((315, 560, 3), (10, 20, 250), np.uint8)).save(tmp_path / name)
    for size in (16, 224, 400):
        image = np.full((size, size, 3), 100, np.uint8)
        out = corrupt(image, "frost", 3, 0, textures=str(tmp_path))
        # 0.7 x + 0.7 texture
        assert np.abs(out.reshape(-1, 3).mean(0) - [77, 84, 245]).max() < 3
    assert (
        corruption_label("frost", str(tmp_path)) == "frost"
        and corruption_label("frost") == "frost(procedural)"
    )
    assert corruption_label("fog") == "fog"


def test_procedural_frost_differs_between_images_and_is_ice_coloured():
    image = np.zeros((224, 224, 3), np.uint8)
    one, two = (corrupt(image, "frost", 5, seed).astype(float) for seed in (0, 1))
    assert np.abs(one - two).mean() > 10
    red, green, blue = one.mean((0, 1))
    assert red < green < blue and one.std() > 20


@pytest.mark.parametrize(
    ("name", "severity", "image", "error"),
    [
        ("gausian_noise", 1, np.zeros((8, 8, 3), np.uint8), DataError),
        ("fog", 0, np.zeros((8, 8, 3), np.uint8), DataError),
        ("fog", 6, np.zeros((8, 8, 3), np.uint8), DataError),
        ("fog", 1, np.zeros((8, 8, 3), np.float32), ItemError),
        ("fog", 1, np.zeros((8, 8, 4), np.uint8), ItemError),
        ("fog", 1, np.zeros((8, 8), np.uint8), ItemError),
        ("fog", 1, np.zeros((3, 8, 3), np.uint8), ItemError),
    ],
)
def test_wrong_requests(name, severity, image, error):
    with pytest.raises(error):
        corrupt(image, name, severity, 0)
