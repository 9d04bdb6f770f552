"""Batches for diffusion training as a function of (seed, step): the same images and noise on any number of
workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest
from diffadapt.diffusion.generators.upsample import Filter, native

READERS = 8
ENCODE_SLICE = 16
"""Images encoded at a time by the autoencoder."""


class ImageSource(Protocol):
    """Images by position: ``source[i]`` is a uint8 array (H, W, C) and its label (an int, or None)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int | None]: ...


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """An in-memory source: uint8 (N, H, W, C), and labels (N,) or None."""

    images: np.ndarray
    labels: Sequence[int] | np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int | None]:
        return self.images[index], None if self.labels is None else int(self.labels[index])


class Batch(NamedTuple):
    """x0 (B, C, h, w) in [-1, 1] or latents, noise of the same shape, t (B,) and labels (B,) with dropped
    ones already null."""

    x0: Tensor
    noise: Tensor
    t: Tensor
    y: Tensor | None


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is cut: rank ``rank`` of ``world`` takes its share in parts of ``micro`` images;
    labels are dropped with probability ``label_dropout``, half of the images mirrored if ``flip``."""

    seed: int
    batch_size: int
    rank: int
    world: int
    micro: int
    label_dropout: float = 0.0
    flip: bool = False

    @property
    def accumulate(self) -> int:
        return self.batch_size // self.world // self.micro

    def positions(self, step: int, part: int) -> range:
        """Positions of this part in the endless stream of images."""
        start = step * self.batch_size + self.rank * (self.batch_size // self.world) + part * self.micro
        return range(start, start + self.micro)


class DiffusionBatches:
    """``batches(step, part) -> Batch``: shuffled epochs, flips, timesteps, noise and label dropout, all drawn
    for each position of the image stream on its own, hence independent of workers, micro-batches and earlier
    calls."""

    def __init__(
        self,
        source: ImageSource,
        plan: BatchPlan,
        *,
        device: torch.device,
        timesteps: int,
        num_classes: int | None = None,
        shrink: int = 1,
        shrink_filter: Filter = "bilinear",
        vae: AutoencoderKL | None = None,
    ):
        self.source, self.plan, self.device, self.timesteps = source, plan, device, timesteps
        self.num_classes = num_classes
        self.shrink, self.filter, self.vae = shrink, shrink_filter, vae
        self._readers: ThreadPoolExecutor | None = None
        if not isinstance(source, ArrayImages):
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="images")
        self.shape = source[0][0].shape
        self._ahead: tuple[tuple[int, int], list[Future]] | None = None
        self._generator = torch.Generator(device)

    def __call__(self, step: int, part: int = 0) -> Batch:
        positions = self.plan.positions(step, part)
        items = self._read(step, part)
        seeds = [int(digest(["diffusion", self.plan.seed, position], 15), 16) for position in positions]
        t, flips, drops = self._draw(seeds)
        mirrored = [flip and self.plan.flip for flip in flips]
        shown = [i[:, ::-1] if flip else i for (i, _), flip in zip(items, mirrored, strict=True)]
        images = np.stack(shown)
        x0 = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        x0 = native(x0, self.shrink, self.filter).clamp(-1.0, 1.0)
        shape = x0.shape if self.vae is None else latent_shape(self.vae, x0.shape)
        normals = torch.empty((2 if self.vae is not None else 1, *shape), device=self.device)
        for row, seed in enumerate(seeds):
            generator = self._generator.manual_seed(seed)
            for draw in normals:
                draw[row] = torch.randn(shape[1:], generator=generator, device=self.device)
        if self.vae is not None:
            x0 = self._encode(x0, normals[1])
        y = None
        if self.num_classes is not None:
            labels = [
                self.num_classes if dropped else int(label)
                for (_, label), dropped in zip(items, drops, strict=True)
            ]
            y = torch.tensor(labels, device=self.device)
        return Batch(x0, normals[0], t.to(self.device), y)

    def indices(self, step: int, part: int) -> list[int]:
        """Which images a part holds: every epoch is a permutation drawn from (seed, epoch)."""
        count = len(self.source)
        return [
            int(_permutation(self.plan.seed, p // count, count)[p % count])
            for p in self.plan.positions(step, part)
        ]

    def _read(self, step: int, part: int) -> list[tuple[np.ndarray, int | None]]:
        if self._readers is None:
            return [self._item(i) for i in self.indices(step, part)]
        here = (step, part)
        futures = self._ahead[1] if self._ahead and self._ahead[0] == here else self._submit(*here)
        follows = (step, part + 1) if part + 1 < self.plan.accumulate else (step + 1, 0)
        self._ahead = (follows, self._submit(*follows))
        return [future.result() for future in futures]

    def _submit(self, step: int, part: int) -> list[Future]:
        assert self._readers is not None
        return [self._readers.submit(self._item, i) for i in self.indices(step, part)]

    def _item(self, index: int) -> tuple[np.ndarray, int | None]:
        image, label = self.source[index]
        if image.shape != self.shape or image.dtype != np.uint8:
            raise DataError(
                f"Training image {index} is {image.dtype} of shape {image.shape}, but the first is uint8 of"
                f" {self.shape}; bring all images to one size (data.image_size)."
            )
        if self.num_classes is not None and (label is None or not 0 <= int(label) < self.num_classes):
            raise DataError(
                f"Training image {index} has label {label}, outside 0..{self.num_classes - 1}; mend the"
                " labels or class list."
            )
        return image, label

    def _draw(self, seeds: Sequence[int]) -> tuple[Tensor, list[bool], list[bool]]:
        """Timestep, flip and label drop of each image; on the CPU, so that the device is not waited for."""
        t, uniforms = torch.empty(len(seeds), dtype=torch.long), torch.empty(len(seeds), 2)
        for row, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed ^ 1)
            t[row] = torch.randint(self.timesteps, (), generator=generator)
            uniforms[row] = torch.rand(2, generator=generator)
        return t, (uniforms[:, 0] < 0.5).tolist(), (uniforms[:, 1] < self.plan.label_dropout).tolist()

    @torch.no_grad()
    def _encode(self, x: Tensor, noise: Tensor) -> Tensor:
        assert self.vae is not None
        parts = [self.vae.encode(part).latent_dist for part in x.split(ENCODE_SLICE)]
        mean, std = torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])
        return (mean + std * noise) * self.vae.config.scaling_factor


def latent_shape(vae: AutoencoderKL, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The latents' shape for images of ``shape`` (B, C, H, W)."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return shape[0], vae.config.latent_channels, shape[2] // factor, shape[3] // factor


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(int(digest(["epoch", seed, epoch], 15), 16)).permutation(count)
