"""Turn a guided-diffusion checkpoint of the unconditional ADM into a diffusers folder, and prove that it
computes the same."""

from __future__ import annotations

import dataclasses
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DModel

from diffadapt.core.errors import WeightsError
from diffadapt.core.files import file_sha256
from diffadapt.core.foreign import parse
from diffadapt.core.place import new_folder, writing
from diffadapt.models.adm import ADMConfig, infer_config, key_map
from diffadapt.models.diffusers_folder import save_component, save_scheduler, write_details, write_model_index
from diffadapt.models.importers.adm_reference import adm_forward
from diffadapt.models.importers.shared import deviation, load_checkpoint

GATE = 1e-4
"""Largest relative deviation of the imported network from the original graph that is accepted."""


@dataclass(frozen=True)
class AdmImportReport:
    """What was imported: where, how many parameters, of which source, and how far its output is from the
    original's."""

    out: str
    config: ADMConfig
    parameters: int
    source_sha256: str
    max_relative_error: float

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.parameters:,} parameters; output within {self.max_relative_error:.1e}"
            f" (relative) of the original graph, gate {GATE:.0e}; source sha256 {self.source_sha256[:16]}"
        )


def convert_state(state: dict[str, torch.Tensor], config: ADMConfig) -> dict[str, torch.Tensor]:
    """The original's tensors under diffusers' names, float32.

    Raises WeightsError naming missing and unexpected keys.
    """
    out: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for old, new, kind in key_map(config):
        for part in ("weight", "bias"):
            name = f"{old}.{part}"
            if name not in state:
                missing.append(name)
                continue
            used.add(name)
            value = state[name].float()
            if kind == "qkv":
                for target, piece in zip(
                    ("to_q", "to_k", "to_v"), _split_qkv(value, config, name), strict=True
                ):
                    out[f"{new}.{target}.{part}"] = piece
            elif kind == "linear" and part == "weight":
                out[f"{new}.{part}"] = value.flatten(1)
            else:
                out[f"{new}.{part}"] = value
    unexpected = sorted(set(state) - used)
    if missing or unexpected:
        raise WeightsError(
            f"The checkpoint does not fit the ADM configuration: {_some('missing', missing)} and"
            f" {_some('unexpected', unexpected)}; check that it is an unconditional ADM and that the"
            " configuration given is its own."
        )
    return out


def adm_from_original(state: dict[str, torch.Tensor], config: ADMConfig) -> UNet2DModel:
    """A float32 diffusers UNet2DModel with the original's weights, in evaluation mode.

    Raises WeightsError for missing or unexpected keys, or wrong shapes.
    """
    converted = convert_state(state, config)
    with torch.device("meta"):
        unet = UNet2DModel(**config.unet_config())
    wanted = unet.state_dict()
    odd = [k for k in sorted(set(wanted) ^ set(converted))]
    wrong = [
        f"{k} is {tuple(v.shape)}, not {tuple(wanted[k].shape)}"
        for k, v in converted.items()
        if k in wanted and v.shape != wanted[k].shape
    ]
    if odd or wrong:
        raise WeightsError(
            f"The checkpoint does not fit the ADM configuration: {_some('wrong shapes', wrong)},"
            f" {_some('unmatched', odd)}; give the configuration that the checkpoint was trained with."
        )
    unet.load_state_dict(converted, assign=True)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def self_check(unet: UNet2DModel, state: dict[str, torch.Tensor], config: ADMConfig, seed: int = 0) -> float:
    """Largest output deviation from the original graph, relative to the largest output, on random images.

    The images are the smallest that pass through all levels twice over, since the network is convolutional.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(config.image_size, 2 ** len(config.channel_mult))
    x = torch.randn(2, config.in_channels, size, size, generator=generator)
    t = torch.tensor([3, 700])
    reference = adm_forward({k: v.float() for k, v in state.items()}, config, x, t)
    return deviation(unet(x, t).sample, reference, 1e-12)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], ADMConfig | None]:
    """A checkpoint's tensors, and the configuration in its metadata if there is one. Raises WeightsError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"There is no checkpoint at {str(path)!r}: download 256x256_diffusion_uncond.pt from the authors"
            " of guided-diffusion and give its path."
        )
    try:
        state, metadata = load_checkpoint(file, mmap=True)
        if metadata is not None:
            text = metadata.get("config")
            return state, ADMConfig.from_dict(parse(text)) if text else None
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"The checkpoint {str(path)!r} cannot be read: it is damaged or holds Python objects beside"
            " tensors, which are not unpickled for safety; get it again, or save its state_dict alone as"
            " safetensors."
        ) from error
    except Exception as error:
        raise WeightsError(
            f"The checkpoint {str(path)!r} cannot be read as plain tensors ({type(error).__name__}); download"
            " it again."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"The checkpoint {str(path)!r} is not a plain mapping of names to tensors; give the model's own"
            " file."
        )
    return {k.removeprefix("module."): v for k, v in state.items()}, None


def import_adm(
    checkpoint: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    config: ADMConfig | Literal["auto"] = "auto",
) -> AdmImportReport:
    """Write ``out_folder`` (unet/, scheduler/, model_index.json, diffadapt.json) from an original ADM
    checkpoint.

    With ``auto`` the configuration is the file's own metadata, or is inferred from keys and shapes (256
    pixels, 64 channels a head). The folder appears only when the self-check has passed. Raises WeightsError.
    """
    out = Path(out_folder).expanduser()
    with writing(str(out)):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise WeightsError(f"{str(out)!r} exists and is not empty; choose another --out or remove it.")
    state, own = read_checkpoint(checkpoint)
    if config == "auto":
        config = own or infer_config({k: tuple(v.shape) for k, v in state.items()})
    unet = adm_from_original(state, config)
    error = self_check(unet, state, config)
    if not error <= GATE:
        raise WeightsError(
            f"The imported network is {error:.1e} (relative) off the original graph, above the gate of"
            f" {GATE:.0e}, so nothing was written: the installed diffusers computes something else; pin the"
            " version of constraints.txt."
        )
    parameters, digest = sum(p.numel() for p in unet.parameters()), file_sha256(Path(checkpoint).expanduser())
    report = AdmImportReport(str(out), config, parameters, digest, error)
    with new_folder(out) as scratch:
        save_component(unet, Path(scratch) / "unet")
        save_scheduler(scratch, learn_sigma=config.out_channels == 2 * config.in_channels, clip_sample=True)
        write_model_index(scratch, "DDPMPipeline")
        write_details(
            scratch,
            {
                "image_size": config.image_size,
                "channels": config.in_channels,
                "source": Path(checkpoint).name,
                "source_sha256": report.source_sha256,
                "adm": dataclasses.asdict(config),
            },
        )
    return report


def _split_qkv(value: torch.Tensor, config: ADMConfig, name: str) -> tuple[torch.Tensor, ...]:
    per_head = config.num_head_channels
    if value.shape[0] % (3 * per_head):
        raise WeightsError(
            f"{name} has {value.shape[0]} rows, which is no multiple of 3 x {per_head} channels a head."
        )
    tail = () if value.ndim == 1 else (value.shape[1],)
    if config.legacy_qkv:
        pieces = value.reshape(-1, 3, per_head, *tail).unbind(1)
    else:
        pieces = value.reshape(3, -1, per_head, *tail).unbind(0)
    return tuple(p.reshape(-1, *tail).contiguous() for p in pieces)


def _some(label: str, names: list[str]) -> str:
    if not names:
        return f"{label} none"
    return f"{label} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
