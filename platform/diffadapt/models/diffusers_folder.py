"""Reading and writing diffusers pipeline folders part by part: model_index.json, components, scheduler,
diffadapt.json.

``diffadapt.json`` beside model_index.json holds what diffusers has no field for: ``image_size``,
``channels``, ``native_size``, ``upsample``, ``upsample_filter``, ``space_to_depth``, ``class_names``,
``training``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers import DDPMScheduler

from diffadapt.core.errors import WeightsError
from diffadapt.core.foreign import parse
from diffadapt.models.pretrained import from_pretrained
from diffadapt.models.weights import is_hub_id, resolve

M = TypeVar("M", bound=torch.nn.Module)
DETAILS = "diffadapt.json"


def load_component(cls: type[M], weights: str, subfolder: str | None = None, variant: str = "") -> M:
    """``cls.from_pretrained`` in float32, frozen and in eval mode; a failure is a WeightsError that says how
    to mend it."""
    name, revision = _split(resolve(weights))
    where = f"{weights}/{subfolder}" if subfolder else weights
    try:
        model = from_pretrained(
            cls,
            name,
            subfolder=subfolder,
            revision=revision,
            variant=variant or None,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    except WeightsError:
        raise
    except Exception as error:  # hub, file-format and shape errors share no base class
        raise WeightsError(
            f"No {cls.__name__} could be loaded from {where!r} ({_first_line(error)}); give a diffusers"
            " folder that has one in place of it, or a hub id that is reachable or was downloaded with"
            f" `hf download {name if is_hub_id(name) else '<hub id>'}`."
        ) from error
    bad = next((name for name, p in model.named_parameters() if not torch.isfinite(p).all()), None)
    if bad is not None:
        raise WeightsError(
            f"The weights {where!r} hold NaN or infinity (in {bad}): their training diverged or the file is"
            " damaged; give others."
        )
    return model.requires_grad_(False).eval()


def read_json(weights: str, name: str) -> dict[str, Any] | None:
    """The JSON file ``name`` (may be ``sub/file.json``) of a weights folder or hub repository; None if it has
    none."""
    resolved = resolve(weights)
    path: Path | None
    if is_hub_id(resolved):
        path = _hub_file(resolved, name)
    else:
        path = Path(resolved) / name
    if path is None or not path.is_file():
        return None
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise WeightsError(
            f"{path} is not valid JSON ({error}); restore the file from the weights' source."
        ) from error


def save_component(model: diffusers.ModelMixin, folder: str | Path) -> None:
    """``save_pretrained`` as safetensors that other users may read (safetensors writes them for the owner
    only)."""
    model.save_pretrained(str(folder), safe_serialization=True)
    for file in Path(folder).glob("*.safetensors"):
        file.chmod(0o644)


def write_model_index(
    folder: str | Path, pipeline: str, *, has_vae: bool = False, class_names: Sequence[str] | None = None
) -> None:
    """model_index.json for ``DiTPipeline`` or ``DDPMPipeline``, with label names if given."""
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    if pipeline == "DiTPipeline":
        index["transformer"] = ["diffusers", "DiTTransformer2DModel"]
        index["vae"] = ["diffusers", "AutoencoderKL"] if has_vae else [None, None]
        if class_names is not None:
            index["id2label"] = {str(i): name for i, name in enumerate(class_names)}
    else:
        index["unet"] = ["diffusers", "UNet2DModel"]
    index["scheduler"] = ["diffusers", "DDPMScheduler"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_scheduler(folder: str | Path, *, learn_sigma: bool, clip_sample: bool) -> None:
    """scheduler/: the linear 1000-step schedule with the spacing that equals the original's respacing."""
    DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=clip_sample,
        variance_type="learned_range" if learn_sigma else "fixed_small",
        timestep_spacing="linspace",
        prediction_type="epsilon",
    ).save_pretrained(str(Path(folder) / "scheduler"))


def write_details(folder: str | Path, details: dict[str, Any]) -> None:
    """diffadapt.json, with sorted keys so that equal details are equal bytes."""
    (Path(folder) / DETAILS).write_text(json.dumps(details, indent=2, sort_keys=True) + "\n")


def _split(resolved: str) -> tuple[str, str | None]:
    if not is_hub_id(resolved):
        return resolved, None
    name, _, revision = resolved.partition("@")
    return name, revision or None


def _hub_file(resolved: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, revision = _split(resolved)
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError:
        return None  # offline: the components, loaded next, say what is missing
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise WeightsError(
            f"The hub repository {repo!r} could not be read ({_first_line(error)}); check its name and the"
            " network, or give a folder."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
