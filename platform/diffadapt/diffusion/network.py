"""An unconditional diffusion network read from a folder or the hub, frozen, in a chosen precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import torch
from diffusers import UNet2DModel

from diffadapt.compute.compiling import channels_last, wants_compilation
from diffadapt.compute.precision import dtype_of, float32_parts, precision_on
from diffadapt.core.config import Precision
from diffadapt.core.errors import WeightsError
from diffadapt.diffusion.schedule import Schedule
from diffadapt.models.diffusers_folder import DETAILS, load_component, read_json
from diffadapt.models.weights import resolve
from diffadapt.models.weights import revision as weights_revision

N = TypeVar("N", bound="UnconditionalNetwork")


class UnconditionalNetwork:
    """A frozen noise predictor for images in [-1, 1].

    The network's weights and activations have the chosen precision; images, the arithmetic of the schedule
    and the gradient that comes out are float32. With ``space_to_depth`` s the network works on (B, C s^2,
    H/s, W/s), an orthonormal change of basis, and callers still see (B, C, H, W).

    Attributes: ``schedule`` (all training steps), ``channels`` C, ``image_size`` (side in pixels),
    ``revision``, ``precision`` (the one in use), ``device``, ``multiple`` (what H and W must be multiples
    of), ``compiled``.
    """

    sees: ClassVar[int] = 1
    """How many images of C channels it is given side by side."""

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
        compile: bool | None = False,
    ) -> None:
        self.schedule = schedule or Schedule.linear()
        self.space_to_depth = space_to_depth
        _demand_folded(unet.config, space_to_depth, self.sees)
        self.channels = unet.config.in_channels // space_to_depth**2 // self.sees
        self.image_size = image_size or _side(unet.config.sample_size) * space_to_depth
        self.multiple = space_to_depth * 2 ** (len(unet.config.block_out_channels) - 1)
        self.revision = revision
        self.device = torch.device(device)
        self.precision = precision_on(self.device, precision, "align.precision")
        self.dtype = dtype_of(self.precision)
        # nn.Module's own `to`: diffusers' warns about modules kept in float32 even when there are none.
        unet = torch.nn.Module.to(unet.eval().requires_grad_(False), self.dtype)
        self.unet = channels_last(unet, self.device)
        self.compiled = wants_compilation(compile, self.device)
        self._forward = torch.compile(self.unet, dynamic=False) if self.compiled else self.unet

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
        return float32_parts(self.precision)


def load_unconditional(
    weights: str,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    compile: bool | None = False,
) -> UnconditionalNetwork:
    """The network at ``weights``: a folder or hub id with a diffusers UNet2DModel at its root or under unet/.

    scheduler_config.json (under scheduler/ or beside the network) and diffadapt.json (``space_to_depth``,
    ``image_size``) are honoured; without a scheduler the schedule is linear over 1000 steps. Raises
    WeightsError with what to do when weights are missing or of another kind.

    A process has one network of the same content and settings for all stages that align and project, as long
    as one of them holds it.
    """
    return open_network(UnconditionalNetwork, weights, device, precision, compile)[0]


def open_network(
    cls: type[N], weights: str, device: torch.device | str, precision: Precision, compile: bool
) -> tuple[N, dict[str, Any]]:
    """The network of ``weights`` as a ``cls``, and its diffadapt.json. Raises as :func:`load_unconditional`
    does."""
    subfolder, details, schedule = settings_of(weights, cls.sees)
    revision = weights_revision(weights)
    key = (cls.__name__, revision, str(device), precision, compile)
    if (network := _SHARED.get(key)) is None:
        network = _SHARED[key] = cls(
            load_component(UNet2DModel, weights, subfolder),
            schedule,
            image_size=details.get("image_size"),
            space_to_depth=int(details.get("space_to_depth", 1)),
            revision=revision,
            device=device,
            precision=precision,
            compile=compile,
        )
    assert isinstance(network, cls)
    return network, details


_SHARED: WeakValueDictionary[tuple[str, str, str, str, bool], UnconditionalNetwork] = WeakValueDictionary()
"""By kind, content and settings; what no open stage holds any more is gone from it."""


def look_at_unconditional(weights: str) -> None:
    """Raise what :func:`load_unconditional` would for a local folder, of whose weights the shapes are
    read."""
    from diffadapt.diffusion.generators.loading import quiet
    from diffadapt.models.parts import look_at_part
    from diffadapt.models.weight_files import demand_components

    subfolder, details, _ = settings_of(weights)
    folder = Path(resolve(weights)) / (subfolder or "")
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"No UNet2DModel could be loaded from {weights!r}: there is no config.json, neither in it nor"
            " under unet/; give a diffusers folder, or import the ADM with `diffadapt weights import-adm`."
        )
    demand_components(weights, folder.parent, {folder.name: ["diffusers", "UNet2DModel"]}, "", "")
    with quiet():
        config = look_at_part(weights, folder, ("diffusers", "UNet2DModel"))
    _demand_folded(config, int(details.get("space_to_depth", 1)), 1)
    if not details.get("image_size"):
        _side(config.sample_size)


def settings_of(weights: str, sees: int = 1) -> tuple[str | None, dict[str, Any], Schedule]:
    """(subfolder of the network, diffadapt.json, schedule). Raises WeightsError for a network of another
    kind, or for a student where none is wanted (``sees``: :class:`UnconditionalNetwork`)."""
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
    if sees == 1 and "student" in details:
        raise WeightsError(
            f"The network {weights!r} is an aligner's student: give it as align.distilled.student, and an"
            " unconditional network as align.weights."
        )
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


def _demand_folded(config: Any, space_to_depth: int, sees: int) -> None:
    folded = space_to_depth**2 * sees
    own = config.in_channels // sees
    if config.in_channels % folded or config.out_channels not in (own, 2 * own):
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
