"""What an aligner is: how images are moved onto the domain of an unconditional diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from diffadapt.core.discover import Seam
from diffadapt.core.flops import Mode

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.network import UnconditionalNetwork
    from diffadapt.diffusion.noise import ItemNoise
    from diffadapt.diffusion.schedule import Schedule

    Run = Callable[[torch.Tensor, ItemNoise, Sequence[int]], torch.Tensor]
    """Images float32 (B, C, H, W) in [-1, 1] on the device, their noise and their seeds -> the aligned ones,
    float32, unclamped. What belongs to an image must depend on its own seed only, unless the aligner is
    ``coupled``."""


class Calls(NamedTuple):
    """Network calls an image."""

    forward: int
    """How often the unconditional network is evaluated."""
    backward: int = 0
    """How often a gradient goes back through it, or through a part of it."""

    @property
    def passes(self) -> int:
        """In forward passes by the rule of training, in which a backward pass costs two; FLOPs are counted
        (:attr:`modes`), and through frozen weights it costs about one."""
        return self.forward + 2 * self.backward

    @property
    def modes(self) -> dict[Mode, float]:
        """Passes by mode, as plans count them (core/flops.py)."""
        return {"forward": self.forward - self.backward, "gradient": self.backward}


@dataclass(frozen=True)
class Tools:
    """What an aligner works with."""

    network: UnconditionalNetwork
    schedule: Schedule
    """Already respaced to ``config.respacing`` steps."""
    config: Any
    """The AlignConfig: ``start``, ``scale``, ``factor`` and the others are every aligner's."""
    device: torch.device
    classifier: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Images in [-1, 1] (B, C, H, W) -> logits (B, classes), differentiable; only for an aligner that asks
    for it, and only where the recipe has one."""
    gradient_factor: float = 1.0
    """What a loss is multiplied by before it goes back through a network in float16."""


@dataclass(frozen=True)
class Aligner:
    """Base of all aligners; the fields of a subclass are its own settings (``--align.<name>.<field>``),
    their ranges as in core/ranges.py.

    Of these and of the name an aligned image's digest is made. Raise ``version`` when the same settings
    would give other images.
    """

    version: ClassVar[int] = 1
    coupled: ClassVar[bool] = False
    """Whether the images of a batch act on each other: then ``coupled_batch`` decides who they are."""
    needs_classifier: ClassVar[bool] = False
    """Whether it looks at the source classifier, where the recipe has one."""
    needs_student: ClassVar[bool] = False
    """Whether its network is a student (diffusion/student) instead of the unconditional model: the one that
    its field ``student`` names, or the recipe's own where that is 'train'."""

    counted: ClassVar[bool] = True
    """Whether its calls of the unconditional network are all that it computes, so that plans may count it."""
    unread: ClassVar[tuple[str, ...]] = ()
    """Fields of AlignSettings that it does not look at: no part of a digest, and not checked."""

    def cost(self, config: Any) -> Calls | None:
        """Network calls an image at ``config``, the AlignConfig: what reports, plans and benchmarks count.
        None: it does not say."""
        return None

    def steps_label(self, config: Any) -> str:
        """Its steps in a word, for labels."""
        return f"{config.start}of{config.respacing}"

    def draws(self, start: int) -> int | None:
        """How often a batch's noise is drawn in ``start`` steps; None: not known beforehand."""
        return None

    def open(self, tools: Tools) -> Run:
        """Make ready once; what comes back is called batch by batch. Raises RecipeError for settings that
        cannot be run. Torch is imported here, not at the file's top."""
        raise NotImplementedError


ALIGNERS = Seam(
    "aligner",
    "diffadapt.diffusion.aligners",
    "DIFFADAPT_ALIGNERS",
    Aligner,
    hyphens=True,
    skip=frozenset({"base", "config"}),
)
"""Every aligner by the value of ``align.guidance``."""
