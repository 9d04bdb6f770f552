"""Captioned scenes with the colours of their label maps, and the crops of them that a step trains on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.data.scenes.resize import resize_image


@dataclass
class LayoutExamples:
    """Images and colour maps as uint8 (H, W, 3), a caption for each, in memory; ``unit`` divides every
    side."""

    size: int
    unit: int
    crop: tuple[int, int] = (0, 0)
    flip: bool = False
    seed: int = 0
    images: list[np.ndarray] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)

    def add(self, colours: np.ndarray, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
        """Every (caption, picture) is an example with the colour map ``colours``; all have one size before
        they are resized."""
        shape = brought_to(*colours.shape[:2], self.size, self.unit)
        small = resize_image(colours, shape)
        for caption, picture in pictures:
            self.images.append(resize_image(picture, shape))
            self.colours.append(small)
            self.captions.append(caption)

    def repeat(self, count: int) -> None:
        """The last example ``count`` times more, without another copy of its pixels."""
        for values in (self.images, self.colours, self.captions):
            values.extend(values[-1:] * count)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what is trained on. Raises RecipeError if crops do not fit, or whole images
        differ in size."""
        sizes = {image.shape[:2] for image in self.images}
        if self.crop == (0, 0):
            if len(sizes) > 1:
                raise RecipeError(
                    f"The images have {len(sizes)} sizes"
                    f" ({', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:4])}, ...): give crop, (height,"
                    " width)."
                )
            return next(iter(sizes))
        height, width = self.crop
        low = min(h for h, _ in sizes), min(w for _, w in sizes)
        if height > low[0] or width > low[1]:
            raise RecipeError(
                f"crop {self.crop} is larger than an image of {low[0]}x{low[1]}: give a smaller crop or a"
                " larger size."
            )
        return self.crop

    def corners(self, step: int, count: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
        """For ``count`` crops of a step: two numbers in 0..1 that place each, and whether it is mirrored."""
        rng = np.random.default_rng(int(digest(["layout-crops", self.seed, step, grid], 15), 16))
        return rng.random((count, 2)), (rng.random(count) < 0.5) & self.flip

    def corner(self, index: int, place: np.ndarray, grid: int) -> tuple[int, int]:
        """Top left corner of the crop of image ``index``, a multiple of ``grid``."""
        (height, width), (h, w) = self.images[index].shape[:2], self._cropped
        return (
            int(place[0] * ((height - h) // grid + 1)) * grid,
            int(place[1] * ((width - w) // grid + 1)) * grid,
        )

    @property
    def _cropped(self) -> tuple[int, int]:
        return self.crop if self.crop != (0, 0) else self.images[0].shape[:2]


def brought_to(height: int, width: int, size: int, unit: int) -> tuple[int, int]:
    """Sides for a short side of ``size`` (0: as it is), both rounded to multiples of ``unit``, at least
    one."""
    scale = size / min(height, width) if size else 1.0
    return max(unit, round(height * scale / unit) * unit), max(unit, round(width * scale / unit) * unit)


def crops(
    images: Sequence[np.ndarray],
    corners: Sequence[tuple[int, int]],
    mirrored: Sequence[bool],
    shape: tuple[int, int],
) -> np.ndarray:
    """uint8 (B, h, w, 3) of ``shape``; each is mirrored after it is cut."""
    cut = [image[y : y + shape[0], x : x + shape[1]] for image, (y, x) in zip(images, corners, strict=True)]
    return np.stack([part[:, ::-1] if flip else part for part, flip in zip(cut, mirrored, strict=True)])


def vocabulary(captions: Iterable[str], *more: str) -> tuple[str, ...]:
    """The words of ``captions`` and ``more``, sorted: lower case, without punctuation, digits one by one."""
    return tuple(
        sorted({word for text in (*captions, *more) for word in re.findall(r"[^\W\d_]+|\d", text.lower())})
    )
