"""MobileNetV2 1.0 of TensorFlow Lite's hosted models, repacked as integers in an .npz, as a timm folder.

For layer i in the network's order (first convolution 0, last 1x1 convolution 51, classifier 52) the file
holds ``w`` uint8 weights in torch's layout with scale ``s`` and zero point ``z``, and ``b`` int32 biases with
scale ``t``: weight = (w - z) s, bias = b t. Batch norm is folded into them. timm's network has batch norm, so
it becomes the identity here; with images at hand it gets their statistics instead, which leaves the function
as it is and makes the network fit for training.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

from diffadapt.core.errors import WeightsError
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.importers.inverted_residuals import Plan, one_file, write_checked
from diffadapt.models.state_dict import load_into

ARCH = "mobilenetv2_100"
MODEL_ARGS = {"in_chans": 3, "pad_type": "same"}
CONFIG = ClassifierConfig(
    name="train", arch=ARCH, resize=224, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
LAYERS = 53
PLAN: Plan = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage (Sandler et al. 2018, table 2)."""


@dataclass(frozen=True)
class MobilenetReport:
    """``max_relative_error``: largest logit difference from the layers of the file
    (inverted_residuals.reference_forward), over the largest logit."""

    folder: str
    parameters: int
    classes: int
    max_relative_error: float
    calibrated: int


def import_mobilenet(place: str, out: str, images: Sequence[np.ndarray] = ()) -> MobilenetReport:
    """Write the timm folder ``out`` from ``place``, the .npz or a folder with one.

    1000 classes (the background class that TensorFlow puts first is dropped); their names come from
    imagenet_labels.txt beside the .npz, else they are numbers. ``images`` (uint8, H, W, 3) give batch norm
    its statistics. Raises WeightsError for a file of another kind, or when the outputs differ from the
    reference's.
    """
    file = one_file(place, "*.npz", "the one with MobileNetV2's integers")
    layers = read_layers(file)
    model = timm.create_model(ARCH, num_classes=len(layers[-1][1]), **MODEL_ARGS)
    load_into(model, _state(model, layers), str(file))
    model.eval()
    if len(images):
        calibrate(model, images)
    extra = {
        "data": "ImageNet-1k, as its authors trained it (quantisation-aware)",
        "origin": "TensorFlow Lite MobileNetV2 1.0 224, uint8",
        "limitations": (
            "Knows the 1000 classes of ImageNet.",
            "Weights are rounded to eight bits.",
            "Confidence is not calibrated.",
        ),
        "batch_norm": f"statistics of {len(images)} images"
        if len(images)
        else "identity (folded): evaluate or freeze it, do not train it",
    }
    names = _labels(file, model.num_classes)
    error = write_checked(
        model, out, file, (layers, PLAN), "MobileNetV2 1.0",
        arch=ARCH, config=CONFIG, class_names=names, extra=extra, model_args=MODEL_ARGS,
    )  # fmt: skip
    return MobilenetReport(
        str(Path(out)), sum(p.numel() for p in model.parameters()), len(names), error, len(images)
    )


def read_layers(file: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, bias) float32 of the 53 layers; of the classifier without its background class. Raises
    WeightsError."""
    try:
        with np.load(file) as found:
            values = {name: found[name] for name in found.files}
        layers = []
        for i in range(LAYERS):
            weight = (values[f"w{i}"].astype(np.float32) - np.float32(values[f"z{i}"])) * np.float32(
                values[f"s{i}"]
            )
            bias = values[f"b{i}"].astype(np.float32) * np.float32(values[f"t{i}"])
            layers.append((torch.from_numpy(weight), torch.from_numpy(bias)))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{str(file)!r} is not MobileNetV2 in integers ({type(error).__name__}: {error}): give the .npz"
            " with w0, s0, z0, b0, t0, ..."
        ) from error
    weight, bias = layers[-1]
    weight = weight.reshape(len(weight), -1)
    layers[-1] = (weight[1:], bias[1:]) if len(weight) == 1001 else (weight, bias)
    return layers


@torch.inference_mode()
def calibrate(model: nn.Module, images: Sequence[np.ndarray], batch: int = 32) -> None:
    """Give every batch norm the mean and variance of its input over ``images``, and weights that undo them:
    the function of the evaluated network stays, and training finds normalised activations."""
    from diffadapt.models.preprocess import to_input

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = {m: [0, 0.0, 0.0] for m in norms}

    def collect(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].double()
        total = sums[module]
        total[0] += x.numel() // x.shape[1]
        total[1] = total[1] + x.sum((0, 2, 3))
        total[2] = total[2] + (x * x).sum((0, 2, 3))

    handles = [m.register_forward_pre_hook(collect) for m in norms]
    for start in range(0, len(images), batch):
        model(to_input(images[start : start + batch], CONFIG))
    for handle in handles:
        handle.remove()
    for m, (count, first, second) in sums.items():
        mean = first / count
        var = (second / count - mean**2).clamp_min(1e-6)
        scale, bias = (var + m.eps).sqrt(), m.bias.double()
        m.running_mean.copy_(mean)
        m.running_var.copy_(var)
        m.weight.copy_(scale)
        m.bias.copy_(bias + mean)


def _state(
    model: nn.Module, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> Mapping[str, torch.Tensor]:
    """The layers under timm's names; each convolution is followed by its batch norm."""
    named = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    convs, norms = named[::2], named[1::2]
    assert len(convs) == len(norms) == LAYERS - 1
    state = {"classifier.weight": layers[-1][0], "classifier.bias": layers[-1][1]}
    for (conv, _), (norm, module), (weight, bias) in zip(convs, norms, layers, strict=False):
        state[f"{conv}.weight"] = weight
        state |= {f"{norm}.weight": torch.full_like(bias, (1 + module.eps) ** 0.5), f"{norm}.bias": bias}
        state |= {
            f"{norm}.running_mean": torch.zeros_like(bias),
            f"{norm}.running_var": torch.ones_like(bias),
        }
    return state


def _labels(file: Path, classes: int) -> list[str]:
    try:
        names = [
            line.strip()
            for line in (file.parent / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, UnicodeDecodeError):
        names = []
    return names if len(names) == classes else [str(i) for i in range(classes)]
