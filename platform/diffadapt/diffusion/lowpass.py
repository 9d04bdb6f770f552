"""The linear low-pass operator phi = U Dn of DDA's structural guidance, as two small matrices (SDA equation
4).

Down- and upsampling by D with the cubic kernel (a = -0.5) are linear and separable, so phi(x) = P_h x P_w^T
with P = U Dn. Weights are normalised before taps outside the image are dropped, so the rows near a border do
not sum to 1: that is how the published operator treats borders, and it is reproduced here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from diffadapt.core.errors import RecipeError


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5; support [-2, 2]."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def resize_matrix(n_in: int, n_out: int, scale: float) -> np.ndarray:
    """The (n_out, n_in) float64 matrix that resamples a row of pixels by ``scale`` (> 1: up, < 1: down,
    antialiased).

    Output o looks at input position o / scale + (n_in - 1) / 2 - (n_out - 1) / (2 scale).
    """
    centre = np.arange(n_out) / scale + (n_in - 1) / 2 - (n_out - 1) / (2 * scale)
    stretch = min(scale, 1.0)
    reach = 2.0 / stretch
    taps = np.floor(centre - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)[None, :]
    weights = cubic((taps - centre[:, None]) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((n_out, n_in))
    rows = np.broadcast_to(np.arange(n_out)[:, None], taps.shape)
    inside = (taps >= 0) & (taps < n_in)
    np.add.at(matrix, (rows[inside], taps[inside].astype(np.int64)), weights[inside])
    return matrix


@lru_cache(maxsize=64)
def matrices(size: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dn (ceil(size/factor), size), U (size, ceil(size/factor)) and P = U Dn (size, size), float64, for one
    side.

    Raises RecipeError unless 1 <= factor <= size.
    """
    if not 1 <= factor <= size:
        raise RecipeError(
            f"The low-pass factor {factor} does not fit an image side of {size} pixels; use 1 to {size}."
        )
    small = -(-size // factor)
    down = resize_matrix(size, small, 1.0 / factor)
    up = resize_matrix(small, size, float(factor))
    return down, up, up @ down


class LowPass:
    """phi with factor D for float32 images (B, C, H, W) of any H and W >= D; the matrices are cached by size
    and device."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self._cache: dict[tuple, torch.Tensor] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """phi(x), same shape."""
        return self._apply(x, 2)

    def down(self, x: torch.Tensor) -> torch.Tensor:
        """Dn x: (B, C, ceil(H/D), ceil(W/D))."""
        return self._apply(x, 0)

    def _apply(self, x: torch.Tensor, which: int) -> torch.Tensor:
        left = self._matrix(x.shape[-2], which, x)
        right = self._matrix(x.shape[-1], which, x)
        return torch.matmul(torch.matmul(left, x), right.T)

    def _matrix(self, size: int, which: int, like: torch.Tensor) -> torch.Tensor:
        key = (size, which, like.device, like.dtype)
        if key not in self._cache:
            values = matrices(size, self.factor)[which]
            self._cache[key] = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._cache[key]
