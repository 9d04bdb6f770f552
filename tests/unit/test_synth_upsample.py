import numpy as np
import pytest
import torch
from PIL import Image

from diffadapt.data.embedded import upsample2
from diffadapt.diffusion.generators.upsample import native, upsample


def test_bilinear_equals_the_embedded_digits_enlargement():
    images = np.random.default_rng(0).uniform(0, 16, (3, 8, 8))
    ours = upsample(torch.from_numpy(images)[:, None], 2, "bilinear")[:, 0]
    np.testing.assert_allclose(ours.numpy(), upsample2(images), atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "pil"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("factor", [2, 3])
def test_upsampling_equals_pil_on_non_square_images(kind, pil, factor):
    image = np.random.default_rng(1).uniform(-1, 1, (5, 7)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((7 * factor, 5 * factor), pil))
    ours = upsample(torch.from_numpy(image)[None, None], factor, kind)[0, 0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_native_inverts_upsampling_and_projects_other_images(kind):
    small = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(native(upsample(small, 2, kind), 2, kind), small)
    other = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    nearest = native(other, 2, kind)
    residual = upsample(nearest, 2, kind) - other
    # least squares: what is left over is orthogonal to every upsampled image
    assert abs(float((residual * upsample(small, 2, kind)).sum())) < 1e-9


def test_native_refuses_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="3 times smaller"):
        native(torch.zeros(1, 1, 16, 16), 3)
