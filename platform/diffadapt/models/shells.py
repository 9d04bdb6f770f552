"""Networks without weights, and inputs for one item, as models/architectures.py describes them: called under
the meta device by models/counts.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Shell = tuple[nn.Module, tuple[Any, ...]]
"""A module and the positional arguments of one item; the first is the image or latent."""
TOKENS = 77
"""Length of CLIP's texts."""


class _Call(nn.Module):
    """``call(module, *arguments)`` as a module."""

    def __init__(self, module: nn.Module, call: Any):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *arguments: Any) -> Tensor:
        return self.call(self.module, *arguments)


def classifier(arch: str, classes: int, channels: int, crop: int, args: Mapping[str, Any]) -> Shell:
    """A timm model."""
    import timm

    from diffadapt.models.classifier import create_model

    own = {k: v for k, v in args.items() if k not in ("in_chans", "img_size")}
    if own:
        model = timm.create_model(arch, num_classes=classes, in_chans=channels, **args)
    else:
        model = create_model(arch, classes, channels, crop=crop)
    return model, (torch.empty(1, channels, crop, crop),)


def part(config: Mapping[str, Any], height: int = 0, width: int = 0) -> Shell:
    """A network of diffusers from its configuration."""
    import diffusers

    kind, told = config["_class_name"], {k: v for k, v in config.items() if not k.startswith("_")}
    if kind == "DiTTransformer2DModel":
        from diffadapt.models.dit import build_dit

        model: nn.Module = build_dit(**told)
    else:
        model = getattr(diffusers, kind)(**told)
    c: Any = model.config
    own = c.get("sample_size") or 64
    sides = (own, own) if isinstance(own, int) else tuple(own)
    x = torch.empty(1, c["in_channels"], height or sides[0], width or sides[1])
    t = torch.empty(1, dtype=torch.long)
    if kind == "UNet2DModel":
        return _Call(model, lambda m, x, t: m(x, t, return_dict=False)[0]), (x, t)
    if kind == "DiTTransformer2DModel":
        return _Call(model, lambda m, x, t, y: m(x, t, class_labels=y, return_dict=False)[0]), (x, t, t)
    text = torch.empty(1, TOKENS, c["cross_attention_dim"])
    if kind == "ControlNetModel":
        factor = 2 ** (len(c["conditioning_embedding_out_channels"]) - 1)
        picture = torch.empty(1, c["conditioning_channels"], x.shape[2] * factor, x.shape[3] * factor)
        return _Call(model, lambda m, x, t, h, p: m(x, t, h, p, return_dict=False)[1]), (x, t, text, picture)
    if c.get("addition_embed_type") == "text_time":
        pooled = c["projection_class_embeddings_input_dim"] - 6 * c["addition_time_embed_dim"]
        pooled = c["projection_class_embeddings_input_dim"] - 6 * c["addition_time_embed_dim"]
        more = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        call = lambda m, x, t, h: m(x, t, h, added_cond_kwargs=more, return_dict=False)[0]  # noqa: E731
        return _Call(model, call), (x, t, text)
    return _Call(model, lambda m, x, t, h: m(x, t, h, return_dict=False)[0]), (x, t, text)


def autoencoder(config: Mapping[str, Any], height: int, width: int, encode: bool) -> Shell:
    """One half of an AutoencoderKL."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(**config)
    if encode:
        half = nn.Sequential(model.encoder, *([model.quant_conv] if model.quant_conv else []))
        return half, (torch.empty(1, config["in_channels"], height, width),)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    half = nn.Sequential(*([model.post_quant_conv] if model.post_quant_conv else []), model.decoder)
    return half, (torch.empty(1, config["latent_channels"], height // factor, width // factor),)


def clip_images(config: Mapping[str, Any]) -> Shell:
    """CLIP's image tower."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    known = CLIPVisionConfig(**config)
    model = CLIPVisionModel(known)
    side = known.image_size
    picture = torch.empty(1, known.num_channels, side, side)
    return _Call(model, lambda m, x: m(pixel_values=x).pooler_output), (picture,)


def segmenter(config: Mapping[str, Any], outputs: int, height: int, width: int) -> Shell:
    """A segmentation network with random weights, in evaluation mode."""
    from diffadapt.core.config import from_dict
    from diffadapt.models.segmentation.build import build_segmenter
    from diffadapt.models.segmentation.config import SegmenterConfig

    net = build_segmenter(from_dict(SegmenterConfig, dict(config)), outputs)
    return net.eval(), (torch.empty(1, 3, height, width),)
