"""Heads of Linear, BatchNorm1d, ReLU and Dropout layers: as files of their own, and as timm's architecture
``mlp_head``.

Domain adaptation trains bottleneck and head behind a backbone. A head for cached features is a folder with
head.json and head.safetensors. Joined with its backbone it is a plain timm model where the head is one
Linear, else an ``mlp_head``: importing this module registers that architecture, after which
``timm.create_model("local-dir:<folder>", pretrained=True)`` loads such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from torch import nn

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.foreign import parse
from diffadapt.models.state_dict import load_into, read_state_dict

ARCH = "mlp_head"
FORMAT = 1


def head_spec(module: nn.Module) -> list[dict[str, Any]]:
    """The layers of ``module`` in order as JSON values; nested Sequentials are flattened, Identity and
    Dropout 0 left out.

    Raises RecipeError for any other layer (a method of one's own may have one).
    """
    return [_describe(layer) for layer in _leaves(module)]


def build_head(spec: Sequence[Mapping[str, Any]]) -> nn.Sequential:
    """The untrained layers of :func:`head_spec`: features (B, width) -> logits (B, classes). Raises
    WeightsError."""
    try:
        return nn.Sequential(*(_layer(values) for values in spec))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The head's list of layers is damaged ({type(error).__name__}: {error}): train it again."
        ) from error


def flat_head(module: nn.Module) -> nn.Sequential:
    """``module`` as :func:`build_head` would build it, with its own weights (copied, on the CPU, in
    evaluation mode)."""
    head = build_head(head_spec(module))
    for own, theirs in zip(head, _leaves(module), strict=True):
        own.load_state_dict({k: v.detach().cpu() for k, v in theirs.state_dict().items()})
    return head.eval()


def save_head(
    folder: str | Path,
    module: nn.Module,
    width: int,
    classes: int | Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """head.json and head.safetensors in ``folder``; ``classes`` are the class names (or their count),
    ``width`` the features'.

    ``extra`` goes to head.json under ``diffadapt``. Raises RecipeError for layers that :func:`head_spec` does
    not know, and for a module that does not map (B, width) to as many logits as there are classes.
    """
    head = flat_head(module)
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
    with torch.inference_mode():
        found = tuple(head(torch.zeros(1, width)).shape)
    if found != (1, len(names)):
        raise RecipeError(f"The head gives {found[-1]} logits, but there are {len(names)} classes.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in head.state_dict().items()},
        folder / "head.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "head.safetensors").chmod(0o644)
    values = {
        "format": FORMAT,
        "width": width,
        "num_classes": len(names),
        "label_names": names,
        "layers": head_spec(head),
        "diffadapt": dict(extra or {}),
    }
    (folder / "head.json").write_text(
        json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return folder


def load_head(folder: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Sequential, dict[str, Any]]:
    """(head in evaluation mode on ``device``, head.json: width, num_classes, label_names, layers, diffadapt).

    Raises WeightsError for a folder that :func:`save_head` did not write, or a damaged one.
    """
    folder = Path(folder)
    try:
        info = parse((folder / "head.json").read_bytes())
        spec, known = info["layers"], info["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The folder {str(folder)!r} holds no head ({type(error).__name__} in head.json): train it again."
        ) from error
    if known != FORMAT:
        raise WeightsError(
            f"The head in {str(folder)!r} is of format {known}, which this version does not read: train it"
            " again."
        )
    head = build_head(spec)
    load_into(head, read_state_dict(str(folder / "head.safetensors")), str(folder))
    return head.eval().to(device), info


def join(
    backbone: nn.Module,
    arch: str,
    head: nn.Module,
    classes: int,
    in_chans: int = 3,
    model_args: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, str, dict[str, Any]]:
    """(classifier, its architecture, its model_args) of a timm ``backbone`` without classifier and the layers
    behind it.

    The classifier is a plain timm model of ``arch`` where the head is one Linear layer, else an ``mlp_head``;
    it has copies of the weights, on the CPU, in evaluation mode. ``model_args`` are what ``arch`` is created
    with (default: what models/backbone.py noted on the backbone, else ``in_chans`` alone).
    :func:`export_classifier` writes the three.
    """
    given = dict(getattr(backbone, "model_args", {}) if model_args is None else model_args)
    args = {"in_chans": in_chans, **given}
    arch = arch.split(".")[0]
    flat = flat_head(head)
    body = {k: v.detach().cpu() for k, v in backbone.state_dict().items()}
    if (
        len(flat) == 1
        and flat[0].bias is not None
        and (model := _plain(arch, args, body, flat[0], classes)) is not None
    ):
        return _noted(model, args), arch, args
    args = {"backbone": arch, "layers": head_spec(flat), **args}
    model = timm.create_model(ARCH, num_classes=classes, **args)
    load_into(model.backbone, body, arch)
    model.head.load_state_dict(flat.state_dict())
    return _noted(model.eval(), args), ARCH, args


class MlpHead(nn.Module):
    """A timm model ``backbone`` without classifier, and ``layers`` (see :func:`head_spec`) behind it, with
    timm's methods.

    ``num_classes`` other than the layers' replaces the last Linear. Further arguments go to the backbone.
    """

    def __init__(
        self,
        backbone: str,
        layers: Sequence[Mapping[str, Any]],
        num_classes: int | None = None,
        in_chans: int = 3,
        **kwargs: Any,
    ):
        super().__init__()
        self.backbone = timm.create_model(backbone, num_classes=0, in_chans=in_chans, **kwargs)
        self.head = build_head(layers)
        linear = [layer for layer in self.head if isinstance(layer, nn.Linear)]
        self.num_features = self.head_hidden_size = linear[0].in_features
        self.num_classes = linear[-1].out_features
        if num_classes is not None and num_classes != self.num_classes:
            self.reset_classifier(num_classes)

    def __getattr__(self, name: str) -> Any:
        """What tools ask of a network's body (blocks, num_prefix_tokens, ...) is the backbone's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("backbone", "head"):
                raise
            return getattr(super().__getattr__("backbone"), name)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool is not None:
            raise ValueError("an mlp_head pools as its backbone does")
        self.num_classes = num_classes
        if not num_classes:
            self.head = nn.Sequential()
            return
        last = max(i for i, layer in enumerate(self.head) if isinstance(layer, nn.Linear))
        old = self.head[last]
        self.head[last] = nn.Linear(old.in_features, num_classes, old.bias is not None).to(old.weight.device)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pooled features (B, num_features) with ``pre_logits``, else logits."""
        x = self.backbone.forward_head(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


@register_model
def mlp_head(pretrained: bool = False, **kwargs: Any) -> MlpHead:
    kwargs.pop("cache_dir", None)
    given = kwargs.pop("pretrained_cfg", None)
    layers = kwargs.get("layers") or ()
    last = max((i for i, values in enumerate(layers) if values["kind"] == "linear"), default=0)
    cfg = given or dict(
        architecture=ARCH,
        input_size=(kwargs.get("in_chans", 3), 224, 224),
        num_classes=None,
        classifier=f"head.{last}",
    )
    return build_model_with_cfg(MlpHead, ARCH, pretrained, pretrained_cfg=cfg, **kwargs)


def _plain(
    arch: str, args: Mapping[str, Any], body: Mapping[str, torch.Tensor], linear: nn.Linear, classes: int
) -> nn.Module | None:
    """A timm classifier with these weights; None where its classifier is no plain Linear behind the pooled
    features."""
    model = timm.create_model(arch, num_classes=classes, **args)
    found = model.get_classifier()
    heads = found if isinstance(found, (tuple, list)) else (found,)
    if not all(
        isinstance(h, nn.Linear) and h.weight.shape == linear.weight.shape and h.bias is not None
        for h in heads
    ):
        return None
    own = {id(p) for h in heads for p in h.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in own}
    if set(model.state_dict()) - names != set(body):
        return None
    model.load_state_dict(body, strict=False)
    for h in heads:
        h.load_state_dict(linear.state_dict())
    return model.eval()


def _noted(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    model.model_args = dict(args)
    return model


def _leaves(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [leaf for child in module for leaf in _leaves(child)]
    empty = isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0)
    return [] if empty else [module]


def _describe(layer: nn.Module) -> dict[str, Any]:
    if type(layer) is nn.Linear:
        return {
            "kind": "linear",
            "in": layer.in_features,
            "out": layer.out_features,
            "bias": layer.bias is not None,
        }
    if isinstance(layer, (nn.BatchNorm1d, nn.SyncBatchNorm)):
        return {"kind": "batch_norm", "width": layer.num_features, "eps": layer.eps, "affine": layer.affine}
    if isinstance(layer, nn.ReLU):
        return {"kind": "relu"}
    if isinstance(layer, nn.Dropout):
        return {"kind": "dropout", "p": layer.p}
    raise RecipeError(
        f"The head of the method holds a {type(layer).__name__}, but exported heads are made of Linear,"
        " BatchNorm1d, ReLU and Dropout."
    )


def _layer(values: Mapping[str, Any]) -> nn.Module:
    kind = values["kind"]
    if kind == "linear":
        return nn.Linear(values["in"], values["out"], bias=values["bias"])
    if kind == "batch_norm":
        return nn.BatchNorm1d(values["width"], eps=values["eps"], affine=values["affine"])
    if kind == "relu":
        return nn.ReLU()
    if kind == "dropout":
        return nn.Dropout(values["p"])
    raise ValueError(f"there is no layer {kind!r}")
