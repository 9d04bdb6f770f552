"""Alignment and projection of 8-bit images onto a diffusion model's domain: one routine for both (SDA
sections 4.2, 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diffadapt.compute.compiling import OneShape, filled, filled_tensor, fixed_shapes
from diffadapt.core.errors import DataError, ItemError, RecipeError, ResourceError
from diffadapt.diffusion.aligners.base import Tools
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.noise import ItemNoise

FP16_GRADIENT_FACTOR = 1024.0
"""Lifts the unit-norm gradient above float16's smallest numbers on its way through the network."""


class NonFiniteImages(ItemError):
    """Images whose projection has NaN or infinity; ``positions`` are their indices in the batch."""

    def __init__(self, positions: list[int], precision: str) -> None:
        self.positions = positions
        super().__init__(
            f"The projection of the images at batch positions {positions} has NaN or infinity in {precision};"
            " use precision fp32 or a smaller guidance scale."
        )


class Projector:
    """Projects images with a frozen unconditional network.

    Args:
        network: from :func:`diffadapt.diffusion.network.load_unconditional`, already on ``device``.
        config: what to do; see :class:`AlignConfig`.
        device: where; default the network's.
        classifier: images in [-1, 1] (B, C, H, W) -> logits (B, classes), differentiable; for aligners that
            look at it.

    Raises RecipeError when the configuration's steps, factor or mode cannot be run.
    """

    def __init__(
        self,
        network: UnconditionalNetwork,
        config: AlignConfig,
        device: torch.device | str | None = None,
        classifier: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self.device = torch.device(device) if device is not None else network.device
        self.schedule = network.schedule.respace(config.respacing)
        config.check()
        if config.coupled_batch < 1 or config.batch_size < 1:
            raise RecipeError("align.batch_size and align.coupled_batch must be at least 1.")
        self.aligner = config.aligner
        self._shape = OneShape(network.compiled and not self.aligner.coupled)
        factor = FP16_GRADIENT_FACTOR if network.precision == "fp16" else 1.0
        self.align = self.aligner.open(Tools(network, self.schedule, config, self.device, classifier, factor))

    def project(self, images: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """The projections as uint8 (B, C, H, W) on the CPU.

        Args:
            images: float (B, C, H, W) in [-1, 1], or uint8 (B, C, H, W).
            seeds: one for each image: all of its randomness.

        The batch is worked on in pieces of ``batch_size`` (in dda-batch mode of ``coupled_batch``, whose
        composition matters). Raises DataError for images that do not fit the network, NonFiniteImages (an
        ItemError), and ResourceError when device memory runs out.
        """
        self._check(images, seeds)
        size = self.config.coupled_batch if self.aligner.coupled else self.config.batch_size
        done, bad = [], []
        for first in range(0, len(seeds), size):
            piece = images[first : first + size].to(self.device)
            x_star = to_network(piece) if piece.dtype == torch.uint8 else piece.float()
            own = list(seeds[first : first + size])
            with self._shape.padding(len(own), tuple(x_star.shape[1:])) as copies:
                x = self.run(filled_tensor(x_star, copies), filled(own, copies))[: len(own)]
            finite = torch.isfinite(x).flatten(1).all(dim=1)
            bad += [first + i for i, ok in enumerate(finite.tolist()) if not ok]
            done.append(to_uint8(x).cpu())
        if bad:
            raise NonFiniteImages(bad, self.network.precision)
        return torch.cat(done) if done else torch.empty(tuple(images.shape), dtype=torch.uint8)

    def run(self, x_star: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """One piece, float32 (B, C, H, W) in [-1, 1] on the device -> the unclamped result, float32."""
        noise = ItemNoise(
            seeds, tuple(x_star.shape[1:]), self.device, draws=self.aligner.draws(self.config.start)
        )
        try:
            with self.network.float32_mode(), fixed_shapes(self.device, self.network.compiled):
                return self.align(x_star, noise, seeds)
        except torch.cuda.OutOfMemoryError as error:
            raise ResourceError(
                f"The device has not enough memory to project {len(seeds)} images of"
                f" {tuple(x_star.shape[1:])} at a time; lower align.batch_size (the result stays the same) or"
                " align.precision."
            ) from error
        finally:
            noise.close()

    def _check(self, images: torch.Tensor, seeds: Sequence[int]) -> None:
        if images.ndim != 4 or images.shape[1] != self.network.channels:
            raise DataError(
                f"The network works on (B, {self.network.channels}, H, W) images but got"
                f" {tuple(images.shape)}; set data.channels to the network's."
            )
        multiple = self.network.multiple
        if images.shape[2] % multiple or images.shape[3] % multiple:
            raise DataError(
                f"Images of {images.shape[2]}x{images.shape[3]} pixels do not fit a network that needs"
                f" multiples of {multiple}; set data.image_size to {self.network.image_size}."
            )
        if len(seeds) != len(images):
            raise ValueError(f"{len(images)} images but {len(seeds)} seeds")


def to_network(images: torch.Tensor) -> torch.Tensor:
    """uint8 (any shape) -> float32 in [-1, 1], as the authors convert them: x / 127.5 - 1."""
    return images.float() / 127.5 - 1.0


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Float images, nominally in [-1, 1] -> uint8 in the same shape: ((clamp(x) + 1) / 2) 255 + 0.5,
    truncated."""
    return ((x.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5).clamp(0, 255).to(torch.uint8)
