"""Class-conditional synthesis with a diffusion transformer (SDA section 4.1; Peebles & Xie 2023).

The sampling loop is ours: diffusers' DiTPipeline drops the learned variance and seeds a whole batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import Tensor

from diffadapt.compute.compiling import (
    OneShape,
    channels_last,
    filled,
    fixed_shapes,
    wants_compilation,
)
from diffadapt.compute.precision import dtype_of, float32_parts, precision_on
from diffadapt.core.config import Precision
from diffadapt.core.errors import DataError, ItemError, RecipeError, WeightsError
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.generators.upsample import upsample
from diffadapt.diffusion.given import demand_latents
from diffadapt.diffusion.noise import ItemNoise
from diffadapt.diffusion.samplers import sample as run_sampler
from diffadapt.diffusion.schedule import Schedule
from diffadapt.models.diffusers_folder import DETAILS, load_component, read_json
from diffadapt.models.dit import guided, has_null_class, make_exact, num_classes
from diffadapt.models.weights import revision

DECODE_SLICE = 8
"""Latents decoded at a time: the autoencoder needs far more memory an image than the transformer."""


class Generator:
    """A class-conditional generator: labels and seeds in, uint8 images out.

    Attributes: ``num_classes``, ``image_size`` (side in pixels), ``channels`` (1 or 3), ``class_names`` (or
    None), ``revision`` (changes when the weights do), ``schedule`` (the training process).
    """

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        schedule: Schedule,
        vae: AutoencoderKL | None = None,
        details: dict | None = None,
        revision: str = "",
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        compile: bool | None = False,
    ):
        details = details or {}
        self.device = torch.device(device)
        self.compiled = wants_compilation(compile, self.device)
        self._shape = OneShape(self.compiled)
        self.precision = precision_on(self.device, precision, "synth.precision")
        self.dtype = dtype_of(self.precision)
        transformer = make_exact(transformer).to(self.device)
        if self.dtype != torch.float32:
            transformer = transformer.to(dtype=self.dtype)
        self.transformer = transformer.requires_grad_(False).eval()
        # The autoencoder stays in float32: in half precision it costs whole grey levels and saves a few
        # percent.
        self.vae = None if vae is None else channels_last(vae.requires_grad_(False).eval(), self.device)
        self.schedule, self.revision = schedule, revision
        self.num_classes = num_classes(transformer)
        self.class_names: list[str] | None = details.get("class_names")
        self.upsample, self.filter = (
            int(details.get("upsample", 1)),
            details.get("upsample_filter", "bicubic"),
        )
        self._latent_shape = (
            transformer.config.in_channels,
            transformer.config.sample_size,
            transformer.config.sample_size,
        )
        self._network = torch.compile(self.transformer, dynamic=False) if self.compiled else self.transformer
        if self.vae is None:
            self.channels, self.image_size = self._latent_shape[0], self._latent_shape[1] * self.upsample
        else:
            self.channels = self.vae.config.out_channels
            self.image_size = (
                self._latent_shape[1] * 2 ** (len(self.vae.config.block_out_channels) - 1) * self.upsample
            )

    def sample(self, labels: Sequence[int], seeds: Sequence[int], config: SynthConfig) -> Tensor:
        """One uint8 image for each label and seed, as a CPU tensor (B, C, H, W).

        ``config.batch_size`` images are made at a time; an image depends on its own label and seed only
        (across batch sizes within one grey level). Raises DataError for a label outside 0..num_classes - 1,
        WeightsError if guidance is asked of a network without a null class, and ItemError naming the
        positions whose result is not finite.
        """
        labels, seeds = [int(label) for label in labels], list(seeds)
        if len(labels) != len(seeds):
            raise ValueError(f"{len(labels)} labels but {len(seeds)} seeds")
        self._check(labels, config)
        size, images = config.batch_size, []
        for start in range(0, len(labels), size):
            some, own = labels[start : start + size], seeds[start : start + size]
            with self._shape.padding(len(some)) as copies:
                batch = self._sample_batch(filled(some, copies), filled(own, copies), config)
            images.append(batch[: len(some)])
        if not images:
            return torch.empty((0, self.channels, self.image_size, self.image_size), dtype=torch.uint8)
        result = torch.cat(images)
        finite = result.flatten(1).isfinite().all(dim=1)
        if not bool(finite.all()):
            bad = [i for i, ok in enumerate(finite.tolist()) if not ok]
            raise ItemError(
                f"Sampling gave NaN or infinity for positions {bad} of the batch (labels"
                f" {sorted({labels[i] for i in bad})}) in {self.precision}; use precision fp32 or bf16, or"
                " check the weights."
            )
        return to_uint8(result, config.output)

    @torch.no_grad()
    def _sample_batch(self, labels: list[int], seeds: list[int], config: SynthConfig) -> Tensor:
        """Float32 pixels (B, C, H, W) on the CPU, nominally in [-1, 1]."""
        with float32_parts(self.precision), fixed_shapes(self.device, self.compiled):
            y = torch.tensor(labels, device=self.device)
            guide = self._latent_shape[0] if config.guide_channels == "all" else min(3, self._latent_shape[0])
            network = guided(self._model_out, y, config.guidance, self.num_classes, guide)
            noise = ItemNoise(seeds, self._latent_shape, self.device)
            x = noise.draw()
            try:
                x = run_sampler(
                    network,
                    x,
                    self.schedule,
                    sampler=config.sampler,
                    steps=config.steps,
                    noise=noise.draw,
                    clip=self.vae is None,
                )
            finally:
                noise.close()
            return upsample(self._decode(x), self.upsample, self.filter).float().cpu()

    def _model_out(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self._network(x.to(self.dtype), t, y, return_dict=False)[0].float()

    def _decode(self, latents: Tensor) -> Tensor:
        if self.vae is None:
            return latents
        scaled = latents / self.vae.config.scaling_factor
        return torch.cat([self.vae.decode(part).sample for part in scaled.split(DECODE_SLICE)])

    def _check(self, labels: list[int], config: SynthConfig) -> None:
        wrong = [label for label in labels if not 0 <= label < self.num_classes]
        if wrong:
            raise DataError(
                f"Label {wrong[0]} is outside the generator's 0..{self.num_classes - 1}; use a generator"
                " trained on these classes or a class list that matches it."
            )
        if config.guidance < 0:
            raise RecipeError(
                f"synth.guidance is {config.guidance} but must not be negative; 1.0 means no guidance."
            )
        if config.guidance != 1.0 and not has_null_class(self.transformer):
            raise WeightsError(
                "These weights have no null class, so guidance must be 1.0; retrain with label_dropout"
                " above 0."
            )


def load_generator(
    weights: str,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    compile: bool | None = False,
    variant: str = "",
) -> Generator:
    """The generator of a DiTPipeline folder, hub id or ``embedded:<name>``; components are loaded singly.

    Without a vae/ the transformer works on pixels, and the optional diffadapt.json names ``upsample``,
    ``upsample_filter`` and ``class_names``. Raises WeightsError if a component is missing or does not fit.
    """
    index = read_json(weights, "model_index.json") or {}
    details = read_json(weights, DETAILS) or {}
    transformer = load_component(DiTTransformer2DModel, weights, "transformer", variant)
    has_vae = bool((index.get("vae") or [None, None])[1])
    vae = load_component(AutoencoderKL, weights, "vae", variant) if has_vae else None
    scheduler = read_json(weights, "scheduler/scheduler_config.json")
    schedule = Schedule.linear() if scheduler is None else Schedule.from_scheduler_config(scheduler)
    demand_latents(weights, transformer.config.in_channels, None if vae is None else vae.config)
    if index.get("id2label") and not details.get("class_names"):
        names = index["id2label"]
        details["class_names"] = (
            [names[str(i)] for i in range(len(names))]
            if all(str(i) in names for i in range(len(names)))
            else None
        )
    return Generator(transformer, schedule, vae, details, revision(weights), device, precision, compile)


def to_uint8(x: Tensor, output: Literal["truncate", "round"] = "truncate") -> Tensor:
    """Pixels in [-1, 1] -> uint8: truncate(clamp(127.5 x + 128, 0, 255)) as the DiT authors store images, or
    (x + 1) / 2 of 255 rounded to nearest, half to even. The two differ only where 127.5 (x + 1) is half-way
    between two integers.
    """
    if output == "truncate":
        return (127.5 * x + 128.0).clamp(0, 255).to(torch.uint8)
    return (127.5 * (x + 1.0)).round().clamp(0, 255).to(torch.uint8)
