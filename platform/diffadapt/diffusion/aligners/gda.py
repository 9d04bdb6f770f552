"""The publicly described form of Generalized Diffusion Adaptation (Tsai et al., CVPR 2024); see
diffusion/gda.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.core.ranges import AboveZero, Positive
from diffadapt.diffusion.aligners.base import Aligner, Calls, Tools

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.aligners.base import Run
    from diffadapt.diffusion.noise import ItemNoise


@dataclass(frozen=True)
class GDAConfig(Aligner):
    """Generalized Diffusion Adaptation as far as it is publicly described (marginal entropy, CLIP style,
    patch-contrastive content, DDIM-like sampling). Its hyper-parameters are not public: these are our
    choices, see diffusion/gda.py.
    """

    entropy_weight: float = 1.0
    """Weight of the entropy of the classifier's mean prediction over augmented views; above 0 it needs the
    classifier."""
    content_weight: float = 1.0
    """Weight of the patch-contrastive loss between features of the input and of the predicted clean image."""
    style_weight: float = 0.0
    """Weight of the CLIP distance between the predicted clean image and ``prompt``; above 0 it needs
    ``clip``."""
    views: Positive = 4
    """Augmented views an image at each step."""
    patches: Positive = 64
    """Positions of the feature map that are contrasted, on a regular grid."""
    temperature: AboveZero = 0.07
    """Of the patch-contrastive loss."""
    clip: str | None = None
    """A folder or hub id with a transformers CLIPModel and its tokenizer."""
    prompt: str = "a clean photo"

    needs_classifier: ClassVar[bool] = True
    counted: ClassVar[bool] = False

    def cost(self, config: Any) -> Calls:
        """The content loss evaluates the network twice more a step, and goes back through its first two
        levels."""
        content = config.gda.content_weight > 0
        return Calls(config.start * (3 if content else 1), config.start * (2 if content else 1))

    def draws(self, start: int) -> int:
        return 1

    def open(self, tools: Tools) -> Run:
        from diffadapt.diffusion.gda import GDA, gda_loop

        gda = GDA(self, tools.network, tools.classifier, tools.device)

        def run(x_star: torch.Tensor, noise: ItemNoise, seeds: Sequence[int]) -> torch.Tensor:
            c = tools.config
            return gda_loop(
                gda, x_star, noise.draw(), tools.schedule, start=c.start, scale=c.scale,
                seeds=seeds, gradient_factor=tools.gradient_factor,
            )  # fmt: skip

        return run
