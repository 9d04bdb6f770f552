"""The networks that weights hold, described without the weights, for what a plan counts: from the
configuration beside the weights, else from that of the published ones (published.json). Knows no torch.

The builders are those of models/shells.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.errors import WeightsError
from diffadapt.core.flops import Network
from diffadapt.core.foreign import parse
from diffadapt.models.classifier_source import folder_config, locate
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.weights import is_hub_id, resolve, weights_label

SHELLS = "diffadapt.models.shells"
SIDED = ("UNet2DModel", "UNet2DConditionModel", "ControlNetModel", "DiTTransformer2DModel", "AutoencoderKL")
"""Classes of diffusers that models/shells.py can build."""


def classifier(config: ClassifierConfig, classes: int | None = None) -> Network | None:
    """The classifier of a recipe at the size of its input; None where its architecture is not known."""
    arch, args = _architecture(config)
    if not arch:
        return None
    sized = with_inputs(config)
    return Network.of(
        f"{SHELLS}:classifier", arch, arch=arch, classes=classes or config.num_classes or 1000,
        channels=config.in_channels, crop=sized.crop, args=args,
    )  # fmt: skip


def part(weights: str, name: str, **size: int) -> Network | None:
    """The part ``name`` (unet, vae, transformer, or '' for the weights' root) of a diffusers folder for
    inputs of ``height`` and ``width`` (of the network's own size unless given); None where no configuration
    is known, or it is of a class that cannot be built here."""
    config = component(weights, name)
    kind = config.get("_class_name") if config else None
    if config is None or kind not in SIDED:
        return None
    told = {k: v for k, v in config.items() if k != "_diffusers_version" and k != "_name_or_path"}
    label = f"{kind} of {weights_label(weights)}"
    return Network.of(f"{SHELLS}:part", label, config=told, **size)


def decoder(weights: str, name: str, height: int, width: int, encode: bool = False) -> Network | None:
    """The decoder (``encode``: the encoder) of an autoencoder for images of ``height`` x ``width``."""
    config = component(weights, name)
    if config is None or config.get("_class_name") != "AutoencoderKL":
        return None
    told = {k: v for k, v in config.items() if not k.startswith("_")}
    label = f"{'encoder' if encode else 'decoder'} of {weights_label(weights)}"
    return Network.of(f"{SHELLS}:autoencoder", label, config=told, height=height, width=width, encode=encode)


def clip_images(weights: str) -> Network | None:
    """The image tower of a CLIP."""
    found = _beside(weights, "config.json") or {}
    config = found.get("vision_config") or _published()["clip"].get(weights)
    return config and Network.of(f"{SHELLS}:clip_images", weights_label(weights), config=config)


def component(weights: str, name: str) -> Mapping[str, Any] | None:
    """The configuration of a part of a diffusers folder or hub repository that is at hand, else that of the
    published weights; None where neither is known."""
    file = f"{name}/config.json" if name else "config.json"
    found = _beside(weights, file)
    if found is not None:
        return found
    parts = _published()["parts"]
    entry = parts.get(weights.partition("@")[0])
    while isinstance(entry, str):
        entry = parts[entry]
    value = (entry or {}).get(name)
    return parts[value][name] if isinstance(value, str) else value


def _architecture(config: ClassifierConfig) -> tuple[str, dict[str, Any]]:
    """(timm's name, further arguments of the folder's); '' where it is not known."""
    try:
        source = locate(config)
    except WeightsError:
        name = config.arch or _published()["classifiers"].get(config.name.rstrip("/"), "")
        return name.split(".")[0], {}
    if source.kind == "folder":
        try:
            values = folder_config(source.place)
        except WeightsError:
            return "", {}
        return values["architecture"].split(".")[0], dict(values.get("model_args", {}))
    if source.kind in ("timm", "hub"):
        return source.place.rsplit("/", 1)[-1].partition("@")[0].split(".")[0], {}
    return (config.arch or "").split(".")[0], {}


def _beside(weights: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a weights folder, or of a hub repository as far as it lies in the local cache."""
    try:
        place = resolve(weights)
    except WeightsError:
        return None
    path: Any = Path(place) / file
    if is_hub_id(place):
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = place.partition("@")
        path = try_to_load_from_cache(name, file, revision=revision or None)
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None
    try:
        value = parse(Path(path).read_bytes())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@functools.cache
def _published() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
