"""An unconditional diffusion network read from a folder or the hub, frozen, in a chosen precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DModel

from diffadapt.compute.precision import float32_mode
from diffadapt.core.errors import WeightsError
from diffadapt.diffusion.schedule import Schedule
from diffadapt.models.diffusers_folder import DETAILS, load_component, read_json
from diffadapt.models.weights import resolve
from diffadapt.models.weights import revision as weights_revision

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class UnconditionalNetwork:
    """A frozen noise predictor for images in [-1, 1].

    The network's weights and activations have the chosen precision; images, the arithmetic of the schedule
    and the gradient that comes out are float32. With ``space_to_depth`` s the network works on (B, C s^2,
    H/s, W/s), an orthonormal change of basis, and callers still see (B, C, H, W).

    Attributes: ``schedule`` (all training steps), ``channels`` C, ``image_size`` (side in pixels),
    ``revision``, ``precision``, ``device``, ``multiple`` (what H and W must be multiples of).
    """

    def __init__(
        self,
        unet: UNet2DModel,
        schedule: Schedule | None = None,
        *,
        image_size: int | None = None,
        space_to_depth: int = 1,
        revision: str = "unknown",
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        self.schedule = schedule or Schedule.linear()
        self.space_to_depth = space_to_depth
        _demand_folded(unet.config, space_to_depth)
        self.channels = unet.config.in_channels // space_to_depth**2
        self.image_size = image_size or _side(unet.config.sample_size) * space_to_depth
        self.multiple = space_to_depth * 2 ** (len(unet.config.block_out_channels) - 1)
        self.revision = revision
        self.precision: Precision = precision
        self.device = torch.device(device)
        self.dtype = _DTYPES[precision]
        # nn.Module's own `to`: diffusers' warns about modules kept in float32 even when there are none.
        unet = torch.nn.Module.to(unet.eval().requires_grad_(False), self.device, self.dtype)
        if self.device.type == "cuda":
            unet = unet.to(memory_format=torch.channels_last)
        self.unet = unet
        self._forward = torch.compile(unet) if compile else unet

    def eps_model(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's output, float32 (B, C or 2C, H, W), for ``x`` (B, C, H, W) at integer times ``t``
        (B,).

        Differentiable in ``x``. What the first C channels are is ``schedule.prediction_type``.
        """
        h = torch.nn.functional.pixel_unshuffle(x, self.space_to_depth) if self.space_to_depth > 1 else x
        h = h.to(self.dtype)
        if self.device.type == "cuda":
            h = h.contiguous(memory_format=torch.channels_last)
        out = self._forward(h, t, return_dict=False)[0].float()
        return torch.nn.functional.pixel_shuffle(out, self.space_to_depth) if self.space_to_depth > 1 else out

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """:meth:`eps_model`, so that the network can be given to a sampler."""
        return self.eps_model(x, t)

    def float32_mode(self):
        """A context in which float32 products are as exact as ``precision`` says."""
        return float32_mode("fp32" if self.precision == "fp32" else "tf32")


def load_unconditional(
    weights: str, device: torch.device | str = "cpu", precision: Precision = "fp32", compile: bool = False
) -> UnconditionalNetwork:
    """The network at ``weights``: a folder or hub id with a diffusers UNet2DModel at its root or under unet/.

    scheduler_config.json (under scheduler/ or beside the network) and diffadapt.json (``space_to_depth``,
    ``image_size``) are honoured; without a scheduler the schedule is linear over 1000 steps. Raises
    WeightsError with what to do when weights are missing or of another kind.
    """
    subfolder, details, schedule = _settings(weights)
    return UnconditionalNetwork(
        load_component(UNet2DModel, weights, subfolder),
        schedule,
        image_size=details.get("image_size"),
        space_to_depth=int(details.get("space_to_depth", 1)),
        revision=weights_revision(weights),
        device=device,
        precision=precision,
        compile=compile,
    )


def look_at_unconditional(weights: str) -> None:
    """Raise what :func:`load_unconditional` would for a local folder, of whose weights the shapes are
    read."""
    from diffadapt.diffusion.generators.loading import quiet
    from diffadapt.models.parts import look_at_part
    from diffadapt.models.weight_files import demand_components

    subfolder, details, _ = _settings(weights)
    folder = Path(resolve(weights)) / (subfolder or "")
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"No UNet2DModel could be loaded from {weights!r}: there is no config.json, neither in it nor"
            " under unet/; give a diffusers folder, or import the ADM with `diffadapt weights import-adm`."
        )
    demand_components(weights, folder.parent, {folder.name: ["diffusers", "UNet2DModel"]}, "", "")
    with quiet():
        config = look_at_part(weights, folder, ("diffusers", "UNet2DModel"))
    _demand_folded(config, int(details.get("space_to_depth", 1)))
    if not details.get("image_size"):
        _side(config.sample_size)


def _settings(weights: str) -> tuple[str | None, dict[str, Any], Schedule]:
    """(subfolder of the network, diffadapt.json, schedule). Raises WeightsError for a network of another
    kind."""
    subfolder = "unet" if read_json(weights, "unet/config.json") is not None else None
    config = read_json(weights, "unet/config.json") or read_json(weights, "config.json")
    if config is not None and config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise WeightsError(
            f"The weights {weights!r} are a {config['_class_name']}, but alignment needs an unconditional"
            " UNet2DModel; give such a folder, or import the ADM with `diffadapt weights import-adm`."
        )
    if config is not None and (config.get("num_class_embeds") or config.get("class_embed_type")):
        raise WeightsError(
            f"The network {weights!r} is class-conditional; alignment needs an unconditional one."
        )
    details = read_json(weights, DETAILS) or {}
    if int(details.get("upsample", 1)) != 1:
        raise WeightsError(
            f"The network {weights!r} samples at a smaller size and upsamples, so it cannot denoise full-size"
            " images; train one with native_size 0."
        )
    scheduler = read_json(weights, "scheduler/scheduler_config.json") or read_json(
        weights, "scheduler_config.json"
    )
    schedule = Schedule.linear() if scheduler is None else Schedule.from_scheduler_config(scheduler)
    return subfolder, details, schedule


def _demand_folded(config: Any, space_to_depth: int) -> None:
    folded = space_to_depth**2
    if config.in_channels % folded or config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise WeightsError(
            f"The network has {config.in_channels} input and {config.out_channels} output channels, which"
            f" fits no image with space_to_depth {space_to_depth}: the input must be a multiple of {folded},"
            " the output once or twice it."
        )


def _side(sample_size: int | tuple[int, int] | list[int] | None) -> int:
    if sample_size is None:
        raise WeightsError(
            "The network's config.json has no sample_size; add it, or image_size in diffadapt.json."
        )
    return sample_size if isinstance(sample_size, int) else max(sample_size)


def forward_flops(weights: str) -> int:
    """Floating-point operations of one forward pass of one image (a multiplication and an addition are two),
    by torch's counter on the meta device: nothing is loaded or computed. Raises WeightsError as
    :func:`load_unconditional` does."""
    from torch.utils.flop_counter import FlopCounterMode

    subfolder, details, _ = _settings(weights)
    config = read_json(weights, f"{subfolder}/config.json" if subfolder else "config.json") or {}
    fold = int(details.get("space_to_depth", 1))
    with torch.device("meta"):
        unet: Any = UNet2DModel.from_config(config)
        side = int(details.get("image_size") or _side(unet.config.sample_size) * fold) // fold
        x = torch.empty(1, unet.config.in_channels, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(x, torch.zeros(1, dtype=torch.int64))
    return counter.get_total_flops()
