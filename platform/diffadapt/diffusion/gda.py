"""Generalized Diffusion Adaptation (Tsai et al., CVPR 2024), as far as its public description goes.

Described: reverse sampling in the manner of DDIM, guided at every step by the marginal entropy of the
classifier over augmented views, a CLIP style loss and a patch-wise contrastive content loss. Neither code nor
hyper-parameters are public, so these choices are ours and its numbers are not claimed:

- entropy: views are horizontal flips and random crops of 80-100 % of the side, drawn from each image's own
  seed and fixed over the steps; loss = entropy of the mean softmax.
- content: features are the network's own after its first two levels (x* and predicted x0 at the same time t);
  each position of a grid must recognise its counterpart in x* among the image's other positions (InfoNCE).
- style: 1 - cosine between CLIP's embeddings of the predicted x0 and of a prompt.
- all three act on the predicted x0; their weighted sum's gradient with respect to the noisy x is normalised
  to length 1 for each image, so that ``scale`` has the unit that it has in DDA, and subtracted after a
  deterministic DDIM step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.samplers import ddim_step, network_time
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import predict_xstart, q_sample

Classifier = Callable[[torch.Tensor], torch.Tensor]
ImageEmbedder = Callable[[torch.Tensor], torch.Tensor]


class GDA:
    """The three losses with what they need; ``config`` is the GDAConfig of aligners/gda.py.

    Raises RecipeError when an entropy weight has no classifier or all weights are 0, and WeightsError when a
    style weight has no CLIP weights.
    """

    def __init__(
        self,
        config: Any,
        network: UnconditionalNetwork,
        classifier: Classifier | None,
        device: torch.device,
        style: ImageEmbedder | None = None,
    ) -> None:
        self.config = config
        self.network = network
        self.classifier = classifier
        if config.entropy_weight <= 0 and config.content_weight <= 0 and config.style_weight <= 0:
            raise RecipeError(
                "All weights of align.gda are 0, so nothing would guide; set one, or use guidance 'none'."
            )
        if config.entropy_weight > 0 and classifier is None:
            raise RecipeError(
                "GDA's marginal entropy needs the source classifier; give one, or set"
                " align.gda.entropy_weight to 0."
            )
        self.style = style
        if config.style_weight > 0 and style is None:
            self.style = clip_style(config, device)

    def loss(
        self, x0: torch.Tensor, x_star: torch.Tensor, t: torch.Tensor, views: torch.Tensor
    ) -> torch.Tensor:
        """The weighted loss of each image, (B,). ``views``: (B, V, 2, 3) affine maps from
        :func:`view_maps`."""
        total = x0.new_zeros(x0.shape[0])
        if self.config.entropy_weight > 0:
            total = total + self.config.entropy_weight * marginal_entropy(self.classifier, x0, views)
        if self.config.content_weight > 0:
            with torch.no_grad():
                wanted = encoder_features(self.network, x_star, t)
            found = encoder_features(self.network, x0, t)
            contrast = patch_contrast(found, wanted, self.config.patches, self.config.temperature)
            total = total + self.config.content_weight * contrast
        if self.config.style_weight > 0:
            total = total + self.config.style_weight * self.style(x0)
        return total


def gda_loop(
    gda: GDA,
    x_star: torch.Tensor,
    start_noise: torch.Tensor,
    schedule: Schedule,
    *,
    start: int,
    scale: float,
    seeds: Sequence[int],
    gradient_factor: float = 1.0,
) -> torch.Tensor:
    """Noise ``x_star`` (B, C, H, W) in [-1, 1] to index start - 1 and denoise from there to 0; unclamped
    float32.

    A deterministic step needs x at the level that the network is told, so there is no off-by-one as in DDA.
    """
    views = view_maps(seeds, gda.config.views).to(x_star)
    x = q_sample(schedule, start - 1, x_star, start_noise)
    for i in reversed(range(start)):
        x = x.detach().requires_grad_(True)
        t = network_time(schedule, i, x)
        with torch.enable_grad():
            x0 = predict_xstart(schedule, i, x, gda.network.eps_model(x, t), clip=True)
            (gradient,) = torch.autograd.grad(gda.loss(x0, x_star, t, views).sum() * gradient_factor, x)
        with torch.no_grad():
            length = torch.linalg.vector_norm(gradient.flatten(1), dim=1).clamp(min=1e-12)
            x = ddim_step(schedule, i, x.detach(), x0.detach()) - scale * gradient / length.view(-1, 1, 1, 1)
    return x.detach()


def marginal_entropy(classifier: Classifier, x0: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Entropy (nats) of the classifier's mean softmax over the views of each image, (B,)."""
    batch, count = views.shape[:2]
    repeated = x0.repeat_interleave(count, dim=0)
    grid = F.affine_grid(views.flatten(0, 1), list(repeated.shape), align_corners=False)
    seen = F.grid_sample(repeated, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    mean = classifier(seen).float().softmax(dim=-1).view(batch, count, -1).mean(dim=1)
    return -(mean * mean.clamp(min=1e-12).log()).sum(dim=-1)


def view_maps(seeds: Sequence[int], views: int) -> torch.Tensor:
    """Affine maps (B, views, 2, 3), each row from its own seed; the first view is the image itself."""
    if views < 1:
        raise RecipeError(f"align.gda.views is {views} but must be at least 1.")
    maps = torch.zeros(len(seeds), views, 2, 3)
    for row, seed in zip(maps, seeds, strict=True):
        # Another stream than the image's noise, which is seeded with the number itself.
        draw = torch.rand(views, 4, generator=torch.Generator().manual_seed(int(seed) ^ 0x5DEECE66D))
        zoom = 1.0 - 0.2 * draw[:, 0]
        flip = torch.where(draw[:, 1] < 0.5, -1.0, 1.0)
        zoom[0], flip[0] = 1.0, 1.0
        row[:, 0, 0], row[:, 1, 1] = zoom * flip, zoom
        row[:, 0, 2] = (1.0 - zoom) * (2 * draw[:, 2] - 1)
        row[:, 1, 2] = (1.0 - zoom) * (2 * draw[:, 3] - 1)
    return maps


def encoder_features(network: UnconditionalNetwork, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The network's activations after its first two levels, float32 (B, F, h, w)."""
    kept: list[torch.Tensor] = []
    level = network.unet.down_blocks[min(1, len(network.unet.down_blocks) - 1)]
    hook = level.register_forward_hook(lambda module, inputs, output: kept.append(output[1][-1]))
    try:
        network.eps_model(x, t)
    finally:
        hook.remove()
    return kept[0].float()


def patch_contrast(
    found: torch.Tensor, wanted: torch.Tensor, patches: int, temperature: float
) -> torch.Tensor:
    """InfoNCE over positions, (B,): position p of ``found`` must match p of ``wanted`` (both (B, F, h,
    w))."""
    side = max(1, math.isqrt(patches))
    rows = torch.linspace(0, found.shape[2] - 1, min(side, found.shape[2])).round().long()
    columns = torch.linspace(0, found.shape[3] - 1, min(side, found.shape[3])).round().long()
    query = F.normalize(found[:, :, rows][:, :, :, columns].flatten(2), dim=1)
    key = F.normalize(wanted[:, :, rows][:, :, :, columns].flatten(2), dim=1)
    logits = torch.einsum("bfp,bfq->bpq", query, key) / temperature
    right = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[0], -1)
    return F.cross_entropy(logits.transpose(1, 2), right, reduction="none").mean(dim=1)


def clip_style(config: Any, device: torch.device) -> ImageEmbedder:
    """A function images in [-1, 1] (B, 1 or 3, H, W) -> 1 - cosine to the prompt, (B,). Raises WeightsError
    without CLIP."""
    if not config.clip:
        raise WeightsError(
            "GDA's style loss needs CLIP, and align.gda.clip is not set: give a folder or hub id such as "
            "openai/clip-vit-base-patch32, or set align.gda.style_weight to 0."
        )
    from transformers import AutoTokenizer, CLIPModel

    from diffadapt.models.pretrained import from_pretrained
    from diffadapt.models.weights import resolve

    name = resolve(config.clip)
    try:
        model = from_pretrained(CLIPModel, name).eval().requires_grad_(False).to(device)
        tokens = from_pretrained(AutoTokenizer, name)([config.prompt], return_tensors="pt").to(device)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"No CLIP model and tokenizer could be loaded from {config.clip!r} ({type(error).__name__}); give"
            " a transformers folder or a reachable hub id, or set align.gda.style_weight to 0."
        ) from error
    with torch.no_grad():
        text = model.text_projection(model.text_model(**tokens).pooler_output)
    side = model.config.vision_config.image_size
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=device).view(1, 3, 1, 1)

    def distance(x: torch.Tensor) -> torch.Tensor:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate((x + 1) / 2, size=(side, side), mode="bicubic", antialias=True)
        image = model.visual_projection(model.vision_model(pixel_values=(x - mean) / std).pooler_output)
        return 1.0 - F.cosine_similarity(image, text, dim=-1)

    return distance
