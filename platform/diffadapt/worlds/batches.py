"""Batches of captioned pictures as a function of (seed, step), the same on any number of workers."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.train.reporter import Reporter


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """uint8 pictures (N, H, W, 3) and a caption for each, in memory."""

    images: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


class Shuffled:
    """Which items step ``step`` shows this rank: epochs are permutations of ``count`` items drawn from (seed,
    epoch)."""

    def __init__(self, count: int, batch_size: int, seed: int, reporter: Reporter):
        if batch_size % reporter.world_size:
            raise RecipeError(
                f"batch_size {batch_size} cannot be split evenly over {reporter.world_size} workers; use a"
                " multiple of the workers."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        share = batch_size // reporter.world_size
        self.mine = slice(reporter.rank * share, (reporter.rank + 1) * share)

    def indices(self, step: int) -> np.ndarray:
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)[self.mine]
        return np.array(
            [_permutation(self.seed, p // self.count, self.count)[p % self.count] for p in positions]
        )

    def generator(self, step: int) -> torch.Generator:
        """For draws of the whole global batch, of which a rank keeps ``mine``."""
        return torch.Generator().manual_seed(int(digest(["text-to-image", self.seed, step], 15), 16))


def pixels(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W) in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(int(digest(["epoch", seed, epoch], 15), 16)).permutation(count)
