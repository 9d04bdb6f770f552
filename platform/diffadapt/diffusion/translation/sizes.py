"""The size of a transferred image."""

from __future__ import annotations

from diffadapt.diffusion.translation.config import TransferConfig


def generated_size(height: int, width: int, config: TransferConfig) -> tuple[int, int]:
    """(height, width) in pixels of the image generated from one of ``height`` x ``width``.

    The short side is brought to ``config.size``, and both sides to the nearest multiple of
    ``config.multiple`` (halves to the even one, at least one multiple), as ZoDi's authors do: 1024 x 2048
    becomes 512 x 1024. Raises ValueError for a side below 1.
    """
    if min(height, width) < 1:
        raise ValueError(f"an image of {height} x {width} pixels")
    factor = config.size / min(height, width)
    return _rounded(height * factor, config.multiple), _rounded(width * factor, config.multiple)


def _rounded(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple
