"""ADM's input preprocessing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffadapt.core.errors import DataError
from diffadapt.data.prepare import prepare


@pytest.mark.parametrize("shape", [(300, 200, 3), (64, 64, 3), (20, 31, 3), (500, 129), (40, 60, 1)])
def test_any_size_becomes_the_square(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = prepare(pixels, 64)
    assert out.dtype == np.uint8 and out.shape == (64, 64, 3 if shape[-1] == 3 else 1)


def test_an_image_of_the_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(prepare(pixels, 64), pixels)
    assert np.array_equal(prepare(Image.fromarray(pixels), 64), pixels)


def test_the_centre_is_kept():
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96] = 255
    assert prepare(pixels, 64).min() == 255


def test_unsuitable_images_are_refused():
    with pytest.raises(DataError, match="mode"):
        prepare(Image.new("RGBA", (8, 8)), 8)
    with pytest.raises(DataError, match="uint8"):
        prepare(np.zeros((8, 8, 3), np.float32), 8)
    with pytest.raises(DataError, match="shape"):
        prepare(np.zeros((8, 8, 4), np.uint8), 8)


def test_it_needs_no_torch():
    code = (
        "import sys, diffadapt.data.prepare, diffadapt.diffusion.aligners.config; sys.exit('torch' in"
        " sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
