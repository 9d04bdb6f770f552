"""Images from prompts with any diffusers text-to-image pipeline (Adapt Anything, section 3: Stable Diffusion
and others)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline

from diffadapt.compute.compiling import OneShape, channels_last, filled, wants_compilation
from diffadapt.compute.precision import dtype_of, float32_parts, precision_on
from diffadapt.core.errors import ItemError, RecipeError, WeightsError
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.diffusion.generators.loading import (
    first_line,
    loaded,
    named,
    note_truncation,
    quiet,
)
from diffadapt.diffusion.generators.pipeline_index import (
    check_settings,
    negative_prompt_message,
    pipeline_index,
    size_message,
)
from diffadapt.diffusion.generators.schedulers import own_noise, with_scheduler
from diffadapt.models.pretrained import from_pretrained


class TextToImage:
    """A text-to-image generator: prompts and seeds in, uint8 images out. Made by :func:`load_text_to_image`.

    Attributes: ``pipe`` (the diffusers pipeline), ``size`` (side of the generated image in pixels; 0 where
    the pipeline does not say and decides itself), ``multiple`` (what a side must be a multiple of),
    ``precision`` (the one in use).
    """

    def __init__(
        self,
        pipe: Any,
        config: TextToImageConfig,
        device: str | torch.device,
        precision: str,
        compiled: bool = False,
    ):
        self.pipe, self.config, self.device, self.precision = pipe, config, torch.device(device), precision
        self.accepts = inspect.signature(pipe.__call__).parameters
        if "prompt" not in self.accepts:
            raise WeightsError(
                f"{config.weights!r} is a {type(pipe).__name__}, which takes no prompt; give a text-to-image"
                " pipeline."
            )
        if config.negative_prompt and (
            "negative_prompt" not in self.accepts or "true_cfg_scale" in self.accepts
        ):
            raise RecipeError(negative_prompt_message(config, type(pipe).__name__))
        if "num_inference_steps" not in self.accepts:
            raise WeightsError(
                f"{config.weights!r} is a {type(pipe).__name__}, whose stages have their own numbers of"
                " steps; give a pipeline with one denoising network."
            )
        self.multiple = _multiple(pipe)
        self.size = config.size or _native_size(pipe)
        if self.size % self.multiple:
            raise RecipeError(size_message(self.size, type(pipe).__name__, self.multiple))
        self._said_truncated = False
        self._shape = OneShape(compiled)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray | ItemError]:
        """A uint8 (H, W, C) image in RGB (grey where the autoencoder is) for each prompt and seed, computed
        as one batch.

        An image depends on its own prompt and seed only: start and step noise come from a CPU generator an
        image, and pictures are decoded one by one (across batch sizes within one grey level). An ItemError
        stands where a picture is not finite or was blocked by the safety checker. Guidance of at most 1 is
        off; distilled pipelines (FLUX dev, LCM) take it as an embedding, FLUX schnell ignores it, SDXL Turbo
        wants it off. Raises RecipeError if the pipeline refuses the settings.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        if not prompts:
            return []
        self._said_truncated = self._said_truncated or note_truncation(self.pipe, prompts)
        with self._shape.padding(len(prompts)) as copies:
            out = self._run(filled(prompts, copies), filled(seeds, copies))
        images, count = out.images[: len(prompts)], len(prompts)
        blocked = (getattr(out, "nsfw_content_detected", None) or [False] * count)[:count]
        return [self._result(image, bad) for image, bad in zip(images, blocked, strict=True)]

    def _run(self, prompts: list[str], seeds: list[int]) -> Any:
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        with (
            quiet(),
            torch.inference_mode(),
            float32_parts(self.precision),
            own_noise(self.pipe.scheduler, generators),
        ):
            try:
                return self.pipe(
                    prompt=prompts,
                    generator=generators,
                    output_type="np",
                    **self._arguments(len(prompts)),
                )
            except ValueError as error:  # how pipelines refuse sizes and settings
                raise RecipeError(
                    f"{type(self.pipe).__name__} refuses these settings ({first_line(error)}): change the"
                    " generator's fields, or use other weights."
                ) from error

    def _arguments(self, count: int) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "num_inference_steps": self.config.steps,
            "guidance_scale": float(self.config.guidance),
        }
        wanted["clean_caption"] = (
            False  # else prompts are rewritten on machines that have bs4 and ftfy, and only there
        )
        if self.size:
            wanted |= {"height": self.size, "width": self.size}
        if self.config.negative_prompt:
            wanted["negative_prompt"] = [self.config.negative_prompt] * count
        return {name: value for name, value in wanted.items() if name in self.accepts}

    def _result(self, image: np.ndarray, blocked: bool) -> np.ndarray | ItemError:
        if blocked:
            return ItemError("the pipeline's safety checker blocked the picture")
        if not np.isfinite(image).all():
            return ItemError(
                f"sampling gave NaN or infinity in {self.precision}: use generator.precision bf16 or fp32, or"
                " check the weights"
            )
        return (image * 255).round().astype(np.uint8)


def load_text_to_image(config: TextToImageConfig, device: str | torch.device = "cpu") -> TextToImage:
    """The pipeline of a folder, a hub id (``org/name`` or ``org/name@revision``) or ``embedded:<name>``,
    ready on ``device``.

    fp16 on a CPU becomes fp32, which is logged. The safety checker is not even loaded unless asked for.
    Raises WeightsError when weights are missing, damaged or no text-to-image pipeline, RecipeError for
    settings that the pipeline cannot serve.
    """
    index = pipeline_index(config.weights)
    check_settings(config, index)
    device = torch.device(device)
    precision = precision_on(device, config.precision, "generator.precision")
    name, revision = named(config.weights)
    without: dict[str, Any] = {}
    if not config.safety_checker and (index is None or "safety_checker" in index.components):
        without = {"safety_checker": None, "requires_safety_checker": False}
        if index is not None and "feature_extractor" in index.components:
            without["feature_extractor"] = None  # serves the checker only
    with quiet():
        arguments = {
            "torch_dtype": dtype_of(precision),
            "revision": revision,
            "variant": config.variant or None,
            **without,
        }
        pipe = loaded("text-to-image pipeline", config.weights, lambda: _from_pretrained(name, arguments))
        if config.safety_checker and getattr(pipe, "safety_checker", None) is None:
            raise RecipeError(
                f"generator.safety_checker is on, but {config.weights!r} brings none: switch it off, or give"
                " weights that have one."
            )
        pipe.scheduler = with_scheduler(pipe.scheduler, config.scheduler, config.steps)
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            channels_last(module.requires_grad_(False).eval(), device)
    vae = getattr(pipe, "vae", None)
    if hasattr(vae, "enable_slicing"):
        vae.enable_slicing()
    compiled = wants_compilation(config.compile, device)
    if compiled:
        _denoiser(pipe).compile(dynamic=False)
    return TextToImage(pipe, config, device, precision, compiled)


def _from_pretrained(name: str, arguments: dict[str, Any]) -> Any:
    try:
        return from_pretrained(AutoPipelineForText2Image, name, **arguments)
    except ValueError as error:
        if "AutoPipeline" not in str(error):
            raise
        # a pipeline that diffusers has but does not list
        return from_pretrained(DiffusionPipeline, name, **arguments)


def _denoiser(pipe: Any) -> Any:
    result = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if result is None:
        raise WeightsError(
            f"{type(pipe).__name__} has neither a unet nor a transformer, so it cannot be used here; give"
            " another pipeline."
        )
    return result


def _native_size(pipe: Any) -> int:
    side = getattr(pipe, "default_sample_size", None) or _denoiser(pipe).config.get("sample_size") or 0
    return int(side if isinstance(side, int) else max(side)) * int(getattr(pipe, "vae_scale_factor", 1))


def _multiple(pipe: Any) -> int:
    factor, config = int(getattr(pipe, "vae_scale_factor", 1)), _denoiser(pipe).config
    if getattr(pipe, "unet", None) is not None:
        return factor
    vae = getattr(pipe, "vae", None)
    packed = vae is not None and config.get("in_channels") == 4 * vae.config.get(
        "latent_channels", 0
    )  # FLUX: 2 x 2 latents a token
    patch = config.get("patch_size") or 1
    return factor * (2 if packed else patch if isinstance(patch, int) else max(patch))
