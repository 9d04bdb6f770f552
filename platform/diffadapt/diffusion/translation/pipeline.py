"""Labelled scenes in another domain: layout-preserving image transfer with Stable Diffusion and a ControlNet
(ZoDi section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diffadapt.compute.compiling import OneShape, filled, wants_compilation
from diffadapt.compute.precision import dtype_of, float32_parts, precision_on
from diffadapt.core.errors import ItemError
from diffadapt.diffusion.generators.loading import note_truncation, quiet
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.translation import edit_friendly
from diffadapt.diffusion.translation.checks import check_transfer, uses_layout
from diffadapt.diffusion.translation.conditioning import conditioning, picture
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.diffusion.translation.denoiser import Denoiser
from diffadapt.diffusion.translation.inversion import add_noise, decode, encode
from diffadapt.diffusion.translation.lcm import consistency_decode
from diffadapt.diffusion.translation.levels import steps_and_guidance, transfer_levels
from diffadapt.diffusion.translation.loading import load_networks
from diffadapt.diffusion.translation.sizes import generated_size

if TYPE_CHECKING:
    from diffadapt.data.scenes.scene import Scene
    from diffadapt.data.scenes.table import ClassTable


class SceneTransfer:
    """Scenes and seeds in, transferred uint8 images out. Made by :func:`load_scene_transfer`.

    Attributes: ``prompt`` and ``source_prompt`` (with the suffix), ``precision`` (the one in use), ``pipe``,
    ``denoiser``, ``schedule``.
    """

    def __init__(
        self,
        pipe: Any,
        controlnet: Any | None,
        config: TransferConfig,
        classes: ClassTable,
        device: torch.device,
        precision: str,
    ):
        self.pipe, self.config, self.classes, self.device, self.precision = (
            pipe,
            config,
            classes,
            device,
            precision,
        )
        self.schedule = Schedule.from_scheduler_config(pipe.scheduler.config)
        self.prompt, self.source_prompt = (
            p + config.suffix for p in (config.resolved.prompt, config.source_prompt)
        )
        _, guidance = steps_and_guidance(config)
        self.denoiser = Denoiser(
            pipe, controlnet, self.schedule, guidance, config.control_scale, config.negative_prompt
        )
        self._shape = OneShape(wants_compilation(config.compile, device))
        note_truncation(pipe, [self.prompt, self.source_prompt, config.negative_prompt])

    def transfer(
        self, scenes: Sequence[Scene], seeds: Sequence[int], strength: float | None = None
    ) -> list[np.ndarray | ItemError]:
        """A uint8 (h, w, 3) image in RGB for every scene, of :func:`generated_size`; scenes of one size are
        computed as one batch.

        An image depends on its own scene and seed only: all its noise comes from a CPU generator of its own,
        and it passes the autoencoder alone (across batch sizes within one grey level). ``strength`` replaces
        the configuration's. An ItemError stands where a scene has no layout or a picture is not finite.
        Raises RecipeError for a strength that cannot be taken.
        """
        if len(scenes) != len(seeds):
            raise ValueError(f"{len(scenes)} scenes but {len(seeds)} seeds")
        strength = self.config.resolved.strength if strength is None else strength
        transfer_levels(self.config, strength, self.schedule.num_train_timesteps)
        results: list[np.ndarray | ItemError | None] = [None] * len(scenes)
        groups: dict[tuple[int, int], list[tuple[int, np.ndarray | None]]] = {}
        for i, scene in enumerate(scenes):
            size = generated_size(*scene.image.shape[:2], self.config)
            try:
                layout = (
                    conditioning(scene, self.classes, self.config.palette, size)
                    if uses_layout(self.config)
                    else None
                )
            except ItemError as error:
                results[i] = error
                continue
            groups.setdefault(size, []).append((i, layout))
        for size, members in groups.items():
            where = [i for i, _ in members]
            layouts = None if members[0][1] is None else np.stack([layout for _, layout in members])  # type: ignore[misc]
            with self._shape.padding(len(where), size) as copies:
                some = filled(where, copies)
                if layouts is not None:
                    layouts = np.concatenate([layouts, np.repeat(layouts[:1], copies, axis=0)])
                made = self._batch(
                    [scenes[i].image for i in some], layouts, [seeds[i] for i in some], size, strength
                )
            for i, image in zip(where, made, strict=False):  # copies follow them
                results[i] = image
        return results  # type: ignore[return-value]

    def _batch(
        self,
        images: Sequence[np.ndarray],
        layouts: np.ndarray | None,
        seeds: Sequence[int],
        size: tuple[int, int],
        strength: float,
    ) -> list[np.ndarray | ItemError]:
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        factor = int(self.pipe.vae_scale_factor)
        shape = (self.pipe.vae.config.latent_channels, size[0] // factor, size[1] // factor)

        def draw() -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

        with quiet(), torch.inference_mode(), float32_parts(self.precision):
            control = (
                None if layouts is None else torch.from_numpy(layouts).permute(0, 3, 1, 2).to(self.device)
            )
            net = self.denoiser.on(control)
            z0 = (
                None
                if self.config.method == "layout"
                else torch.cat(
                    [self._latents(image, size, g) for image, g in zip(images, generators, strict=True)]
                )
            )
            z = self._denoise(z0, net, draw, strength)
            return [self._image(row) for row in z]

    def _denoise(self, z0: torch.Tensor | None, net: Any, draw: Any, strength: float) -> torch.Tensor:
        config, abar = self.config, self.schedule.alphas_cumprod
        levels = transfer_levels(config, strength, self.schedule.num_train_timesteps)
        target, noises = net.guided(self.prompt), draw
        if z0 is None:
            z = draw()
        elif config.method == "stochastic":
            z = encode(z0, draw(), levels.encode, abar, net.plain(self.prompt))
        elif config.method == "edit_friendly":
            z, noises = edit_friendly.invert(
                z0, draw, levels.decode, abar, net.plain(self.source_prompt), config.eta
            )
        else:
            z = add_noise(z0, draw(), float(abar[levels.encode]))
        if config.profile == "lcm":
            return consistency_decode(z, noises, levels.decode, abar, target)
        return decode(z, noises, levels.decode, abar, target, config.eta)

    def _latents(self, image: np.ndarray, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        pixels = (
            torch.from_numpy(np.array(picture(image, size))).permute(2, 0, 1)[None].to(self.device).float()
            / 127.5
            - 1.0
        )
        posterior = self.pipe.vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        return (posterior.mean + posterior.std * noise).float() * self.pipe.vae.config.scaling_factor

    def _image(self, latents: torch.Tensor) -> np.ndarray | ItemError:
        pixels = self.pipe.vae.decode(latents[None] / self.pipe.vae.config.scaling_factor, return_dict=False)[
            0
        ][0].float()
        if not bool(torch.isfinite(pixels).all()):
            return ItemError(
                f"sampling gave NaN or infinity in {self.precision}: use transfer.precision bf16 or fp32, or"
                " check the weights"
            )
        return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def load_scene_transfer(
    config: TransferConfig, classes: ClassTable, device: str | torch.device = "cpu"
) -> SceneTransfer:
    """The transfer that ``config`` describes, ready on ``device``; ``config.weights`` is a folder, a hub id
    or ``embedded:<name>``.

    ``classes`` colours the label maps. fp16 on a CPU becomes fp32, which is logged. Raises WeightsError when
    weights are missing, damaged or of another family, RecipeError for settings that cannot work.
    """
    check_transfer(config)
    device = torch.device(device)
    precision = precision_on(device, config.precision, "transfer.precision")
    pipe, controlnet = load_networks(config, device, dtype_of(precision))
    return SceneTransfer(pipe, controlnet, config, classes, device, precision)
