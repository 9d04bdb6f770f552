"""Classifiers: load from timm, a folder, the hub or a bare checkpoint; create new ones; check that they fit
the data."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from diffadapt.compute.compiling import channels_last
from diffadapt.compute.precision import autocast, float32_mode
from diffadapt.core.errors import RecipeError, WeightsError, suggest
from diffadapt.models import cifar_resnet, mlp_head
from diffadapt.models.classifier_source import classifier_revision, demand_classes, folder_config, locate
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.folder import ModelFolder
from diffadapt.models.importers.dinov2 import as_timm, dinov2_arch, from_transformers
from diffadapt.models.importers.openmmlab import convert_openmmlab, is_openmmlab
from diffadapt.models.inputs import with_inputs
from diffadapt.models.state_dict import (
    Checkpoint,
    arranged,
    demand_fit,
    load_into,
    read_checkpoint,
    strip_prefixes,
)

OWN_ARCHITECTURES = (cifar_resnet, mlp_head)
"""Importing these registers their architectures with timm; a process that loads a model need not have made
one."""


class Classifier(nn.Module):
    """A timm model with what is known about it: ``model``, ``config``, ``num_classes``, ``arch``,
    ``model_args``, ``revision``.

    ``model_args`` are the arguments that ``arch`` is created with; the model carries them too, so that its
    export knows them.

    ``forward`` takes images already normalised, (B, in_channels, H, W), and returns float32 logits (B,
    num_classes), computed in ``config.precision``.
    """

    def __init__(self, model: nn.Module, config: ClassifierConfig, arch: str, revision: str):
        super().__init__()
        self.model, self.config, self.arch, self.revision = model, config, arch, revision
        self.num_classes = int(model.num_classes)
        self.model_args: dict[str, Any] = dict(getattr(model, "model_args", {"in_chans": config.in_channels}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with float32_mode(self.config.precision), autocast(x.device, self.config.precision):
            return self.model(x).float()


def _build(config: ClassifierConfig, classes: int, facts: Mapping[str, Any]) -> nn.Module:
    return timm.create_model(num_classes=classes, **facts)


FOLDER = ModelFolder("config.json", ClassifierConfig, _build)


def load_classifier(
    config: ClassifierConfig, num_classes: int | None = None, device: str = "cpu", drop_path: float = 0.0
) -> Classifier:
    """The pre-trained classifier of a recipe, in evaluation mode on ``device``.

    ``num_classes`` is the data's class count; ``drop_path`` is the stochastic depth that fine-tuning wants.
    Raises WeightsError if the weights are missing, unreadable or of another architecture, DataError if the
    class counts differ, RecipeError for ``train`` (see :func:`create_model`).
    """
    config, source = with_inputs(config), locate(config)
    if source.kind == "train":
        raise RecipeError(
            "The classifier 'train' has no weights yet: train it first, or name existing weights."
        )
    if source.kind == "folder":
        model, arch = _from_folder(source.place, config, drop_path)
    elif source.kind == "file":
        model, arch = _from_file(source.place, config, drop_path)
    else:
        name = f"hf-hub:{source.place}" if source.kind == "hub" else source.place
        model, arch = _from_timm(name, config, drop_path), source.place
    demand_classes(config, int(model.num_classes), num_classes)
    classifier = Classifier(model.eval(), config, arch, classifier_revision(config))
    channels_last(classifier, device)
    return classifier


def create_model(
    arch: str, num_classes: int, in_channels: int = 3, drop_path: float = 0.0, crop: int | None = None
) -> nn.Module:
    """An untrained timm model (ours included), for inputs of ``crop`` pixels where the architecture has to
    know.

    Raises RecipeError for an unknown architecture or unsupported setting.
    """
    demand_known(arch, RecipeError)
    args = {"in_chans": in_channels, **_image_size(arch, crop)}
    try:
        return _noted(timm.create_model(arch, num_classes=num_classes, **args, **_drop_path(drop_path)), args)
    except TypeError as error:
        raise RecipeError(
            f"The architecture {arch!r} cannot be made with drop path {drop_path} ({error})."
        ) from error


def recognise(state: Mapping[str, torch.Tensor]) -> str | None:
    """The architecture that a state dict's keys tell, for the networks of ``cifar_resnet``; else None."""
    blocks = [int(m[1]) for k in state if (m := re.fullmatch(r"layer3\.(\d+)\.conv2\.weight", k))]
    if not blocks or "linear.weight" not in state or "layer4.0.conv1.weight" in state:
        return None
    depth = 6 * (max(blocks) + 1) + 2
    return f"cifar_resnet{depth}" if depth in cifar_resnet.DEPTHS else None


def look_at(config: ClassifierConfig, num_classes: int | None = None) -> str:
    """What is chosen of a checkpoint file, as a sentence, or ''; of a file or folder only the shapes are
    read. Raises what :func:`load_classifier` would, but for numbers that are not finite."""
    source, note = locate(config), ""
    if source.kind == "folder":
        model = weightless(lambda: _from_folder(source.place, config, 0.0, shapes_only=True)[0])
    else:
        checkpoint, arch = _of_file(source.place, config, shapes_only=True)
        model = weightless(lambda: _made(checkpoint, source.place, config, arch, 0.0, demand_fit))
        note = checkpoint.note(config.name)
    demand_classes(config, int(model.num_classes), num_classes)
    return note


def weightless(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()``, without memory for the parameters where the network can be made so."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):  # it computes something of its parameters' values
        return make()


def _from_file(path: str, config: ClassifierConfig, drop_path: float) -> tuple[nn.Module, str]:
    checkpoint, arch = _of_file(path, config)
    return _made(checkpoint, path, config, arch, drop_path, load_into), arch


def _of_file(path: str, config: ClassifierConfig, shapes_only: bool = False) -> tuple[Checkpoint, str]:
    """(the tensors under timm's names, the architecture)."""
    checkpoint = read_checkpoint(path, shapes_only)
    unwrapped = {k.removeprefix("module."): v for k, v in checkpoint.state.items()}
    if is_openmmlab(unwrapped):
        arch, state = convert_openmmlab(unwrapped)
        if config.arch not in (None, arch):
            raise WeightsError(
                f"The checkpoint {path!r} is a {arch}, but the recipe's arch is {config.arch!r}."
            )
        return Checkpoint(state, checkpoint.said), arch
    named = Checkpoint(from_transformers(checkpoint.state), checkpoint.said)
    plain = strip_prefixes(named.state)
    arch = config.arch or dinov2_arch(plain) or recognise(plain)
    if arch is None:
        raise WeightsError(
            f"The checkpoint {path!r} does not tell its architecture: set `arch` to a timm model name."
        )
    demand_known(arch, WeightsError)
    return arranged(named, parameter_names(arch)), arch


def _made(
    checkpoint: Checkpoint,
    path: str,
    config: ClassifierConfig,
    arch: str,
    drop_path: float,
    fill: Callable[[nn.Module, Mapping[str, torch.Tensor], str], object],
) -> nn.Module:
    """The network, with as many classes as the file's head has (none: without a head, as a body is); ``fill``
    it, or compare only."""
    head = "linear" if arch.startswith("cifar_resnet") else timm.get_pretrained_cfg_value(arch, "classifier")
    weight = checkpoint.state.get(f"{head[0] if isinstance(head, (tuple, list)) else head}.weight")
    classes = config.num_classes or 0 if weight is None else weight.shape[0]
    args = {"in_chans": config.in_channels, **_image_size(arch, config.crop)}
    model = timm.create_model(arch, num_classes=classes, **args, **_drop_path(drop_path))
    fill(model, as_timm(checkpoint.state, model), path)
    return _noted(model, args)


@functools.lru_cache(maxsize=16)
def parameter_names(arch: str) -> frozenset[str]:
    """The names of a timm architecture's parameters and buffers."""
    return frozenset(weightless(lambda: timm.create_model(arch)).state_dict())


def _from_folder(
    folder: str, config: ClassifierConfig, drop_path: float, shapes_only: bool = False
) -> tuple[nn.Module, str]:
    values = folder_config(folder)
    arch, pretrained = values["architecture"], values.get("pretrained_cfg", {})
    demand_known(arch, WeightsError)
    if config.arch not in (None, arch):
        raise WeightsError(f"The folder {folder!r} holds a {arch}, but the recipe's arch is {config.arch!r}.")
    args = {"in_chans": int(pretrained.get("input_size", (3,))[0]), **values.get("model_args", {})}
    if pretrained.get("fixed_input_size") and "input_size" in pretrained:
        args.setdefault("img_size", pretrained["input_size"][-1])
    if values.get("any_input_size"):
        args |= _image_size(arch, config.crop)
    if args["in_chans"] != config.in_channels:
        raise WeightsError(
            f"The classifier in {folder!r} takes {args['in_chans']} channels, but the recipe gives"
            f" {config.in_channels}."
        )
    files = [f for f in ("model.safetensors", "pytorch_model.bin") if (Path(folder) / f).is_file()]
    if not files:
        raise WeightsError(f"The classifier folder {folder!r} has no model.safetensors.")
    classes = int(values.get("num_classes", pretrained.get("num_classes", 1000)))
    model = FOLDER.build(config, classes, {"model_name": arch, **args, **_drop_path(drop_path)})
    state = read_checkpoint(str(Path(folder) / files[0]), shapes_only).state
    (demand_fit if shapes_only else load_into)(model, as_timm(from_transformers(state), model), folder)
    return _noted(model, args), arch


def _from_timm(name: str, config: ClassifierConfig, drop_path: float) -> nn.Module:
    repo, args = name.removeprefix("hf-hub:"), {"in_chans": config.in_channels}
    if repo == name:
        demand_published(name)
        repo = f"timm/{name}"
        args |= _image_size(name, config.crop)
    try:
        return _noted(timm.create_model(name, pretrained=True, **args, **_drop_path(drop_path)), args)
    except Exception as error:  # the hub client raises many unrelated types when it is offline
        raise WeightsError(
            f"The weights of {name!r} could not be loaded ({type(error).__name__}): run `hf download {repo}`"
            " where there is a network and share the hub cache (HF_HOME), or give a local folder or"
            " checkpoint file with `arch`."
        ) from error


def demand_published(name: str) -> None:
    """A timm name with a tag of published weights; a bare architecture could change its meaning with timm's
    version."""
    demand_known(name, WeightsError)
    arch, _, tag = name.partition(".")
    have = [n for n in timm.list_models(f"{arch}.*", pretrained=True) if n.startswith(f"{arch}.")]
    if name in have:
        return
    if not have:
        raise WeightsError(
            f"timm publishes no weights for {arch!r}: train it, or give a checkpoint file or folder of it."
        )
    what = f"no weights {tag!r} for {arch!r}" if tag else f"several possible weights for {arch!r}"
    raise WeightsError(f"timm has {what}: name one of {', '.join(have[:6])}.")


def demand_known(arch: str, error: type[Exception]) -> None:
    if not timm.is_model(arch):
        raise error(
            f"There is no architecture {arch!r} in timm or"
            f" diffadapt.{suggest(arch.split('.')[0], timm.list_models())}"
        )


def _image_size(arch: str, crop: int | None) -> dict[str, int]:
    """``img_size`` for architectures that are made for one input size, where ``crop`` is another than
    theirs."""
    known = timm.get_pretrained_cfg(arch, allow_unregistered=True)
    if crop is None or known is None or not known.fixed_input_size:
        return {}
    if tuple(known.input_size[-2:]) == (crop, crop):
        return {}
    return {"img_size": crop}


def _noted(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    model.model_args = dict(args)
    return model


def _drop_path(rate: float) -> dict[str, float]:
    return {"drop_path_rate": rate} if rate > 0 else {}
