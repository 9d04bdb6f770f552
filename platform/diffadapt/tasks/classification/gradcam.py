"""Grad-CAM (Selvaraju et al. 2017) for timm classifiers: convolutional, Swin and ConvNeXt stages, and ViT
tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from diffadapt.core.errors import RecipeError
from diffadapt.models.classifier import Classifier


def gradcam(
    model: nn.Module, images: torch.Tensor, classes: Sequence[int] | torch.Tensor | None = None
) -> torch.Tensor:
    """Normalised images (B, C, H, W) -> heat maps (B, H, W), float32 in [0, 1], 1 at each image's strongest
    point.

    The maps explain the logits of ``classes`` (B,), by default the predicted ones, from the last stage's
    features; for token models from the last block's first norm, because the class token alone reaches the
    head after it. A map without positive evidence is all zero. Modes, gradients and parameters are left as
    they were. Raises RecipeError for models without timm's forward_features and forward_head.
    """
    model = model.model if isinstance(model, Classifier) else model
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise RecipeError(
            f"Grad-CAM needs timm's forward_features and forward_head, which {type(model).__name__} has not."
        )
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        tokens = hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")
        features, logits = (_token_features if tokens else _map_features)(model, images)
        chosen = (
            logits.argmax(1) if classes is None else torch.as_tensor(classes, device=logits.device).long()
        )
        gradient = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features)[0]
    finally:
        for module, mode in modes:
            module.training = mode
    features, gradient = (_channels_first(model, t.detach().float()) for t in (features, gradient))
    heat = F.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True))
    heat = F.interpolate(heat, size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peak = heat.amax((1, 2), keepdim=True)
    return torch.where(
        peak > 0, heat / peak.clamp_min(torch.finfo(heat.dtype).tiny), torch.zeros_like(heat)
    ).clamp(0, 1)


def _map_features(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        features = model.forward_features(images)
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        return features, model.forward_head(features)


def _token_features(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = []

    def cut(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = model.blocks[-1].norm1.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(images)
            return kept[0], logits
    finally:
        handle.remove()


def _channels_first(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) from a feature map of either layout or from tokens with prefix tokens."""
    if x.ndim == 3:
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        x = x[:, prefix:]
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        rows = grid[0] if grid and grid[0] * grid[1] == x.shape[1] else round(x.shape[1] ** 0.5)
        return x.transpose(1, 2).unflatten(-1, (rows, -1))
    if getattr(model, "output_fmt", "NCHW") == "NHWC" or (x.shape[1] != model.num_features == x.shape[-1]):
        return x.permute(0, 3, 1, 2)
    return x
