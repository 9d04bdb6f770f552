"""What a method of unsupervised domain adaptation is. Imports no torch at the top; methods do so inside their
functions.

A method is a frozen dataclass: its fields are its hyper-parameters with the published values as defaults, its
functions are the algorithm. It has no state of its own: what it trains or accumulates are modules and buffers
made by :meth:`build`, so that checkpoints, DDP and exact resume need to know nothing about it. Randomness
comes from torch's generators alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import SHARPNESS, Pass, Progress
from diffadapt.core.config import added
from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import AtLeast, Fraction, Natural, NonNegative

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffadapt.models.adaptation import AdaptationNetwork


@dataclass(frozen=True)
class UdaMethod:
    """Base of all methods. The defaults are Transfer-Learning-Library's common recipe (SGD, nesterov,
    annealed rate)."""

    lr: NonNegative = 0.01
    lr_gamma: NonNegative = 0.001
    """lr_i = lr (1 + lr_gamma i)^-lr_decay at step i (Ganin et al. 2016, section 5.2.2)."""
    lr_decay: NonNegative = 0.75
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1e-3
    backbone_lr: NonNegative = 0.1
    """The backbone's rate, relative to ``lr``."""
    bottleneck: Natural = 256
    """Width of Linear-BatchNorm-ReLU between backbone and head; 0: none (the model is then a plain timm
    model)."""
    clip_norm: Annotated[float, AtLeast(1e-09)] | None = None
    epochs: Natural = added(0)
    """Epochs of this method; 0: those of the training, as for the two below."""
    steps_per_epoch: Natural = added(0)
    batch_size: Natural = added(0)

    limits: ClassVar[dict[str, tuple[float | None, float | None]]] = {}
    """Smallest and largest value (None: no bound) of the fields that a method adds."""
    version: ClassVar[int] = 1
    """Raise it when the same settings would train another model."""
    title: ClassVar[str] = ""
    """The method's name in tables; default: the file's name in capitals."""
    backbone_kind: ClassVar[str] = "any"
    """'vit': the backbone must be a timm VisionTransformer, and frozen features will not do."""
    uses_target: ClassVar[bool] = True
    batch_coupled: ClassVar[str] = ""
    """Why two workers cannot equal one on the same global batch; empty: they do (without batch norm)."""

    def check(self, epochs: int) -> None:
        """Raise RecipeError for settings that do not fit a training of ``epochs``; called when planning."""

    def build(self, width: int, classes: int) -> dict[str, nn.Module]:
        """The trainable modules: ``head`` (features (B, width) -> logits) and whatever else the method needs.

        ``width`` is the bottleneck's, or the backbone's without one.
        """
        from torch import nn

        head = nn.Linear(width, classes)
        nn.init.normal_(head.weight, 0, 0.01)
        nn.init.zeros_(head.bias)
        return {"head": head}

    def losses(self, net: AdaptationNetwork, batch: PairBatch, progress: Progress) -> dict[str, torch.Tensor]:
        """Scalar losses of one pass (``progress.name``); ``loss`` is minimised, all are logged."""
        raise NotImplementedError

    def task_loss(self, net: AdaptationNetwork, batch: PairBatch) -> torch.Tensor:
        """The loss whose surrounding is made flat by SDAT: cross-entropy on the source, forwarded beside the
        target."""
        import torch.nn.functional as F

        (f_s, _), _ = net.forward_both(batch)
        return F.cross_entropy(net.head(f_s), batch.y_s)

    def passes(self) -> tuple[Pass, ...]:
        """The passes of one step, in order."""
        return (Pass(),)

    def passes_with(self, sdat: float, name: str = "") -> tuple[Pass, ...]:
        """:meth:`passes`, after SAM's ascent of the task loss for ``sdat`` > 0 (Rangwani et al. 2022,
        algorithm 1).

        The ascent moves what the task loss reaches: backbone, bottleneck and head, never a discriminator.
        Raises RecipeError, which calls the method ``name`` (default: its class), for a method of several
        passes.
        """
        passes = tuple(self.passes())
        if not sdat:
            return passes
        if len(passes) > 1:
            raise RecipeError(
                f"uda.sdat is {sdat:g}, but {name or type(self).__name__} makes {len(passes)} updates a step"
                " and SDAT needs a method with one: set uda.sdat to 0 or choose another method."
            )
        return (Pass(SHARPNESS, ascend=sdat), *passes)

    def parameter_groups(self, net: AdaptationNetwork) -> list[dict[str, Any]]:
        """Optimiser groups with ``name``, ``params`` and ``lr_scale``; keys of torch.optim.SGD may be
        added."""
        rest = [p for n, m in net.named_children() if n != "backbone" for p in m.parameters()]
        groups = [
            {"name": "backbone", "params": list(net.backbone.parameters()), "lr_scale": self.backbone_lr},
            {"name": "rest", "params": rest, "lr_scale": 1.0},
        ]
        return [g for g in groups if g["params"]]

    def lr_at(self, progress: Progress) -> float:
        """The learning rate of a step."""
        return self.lr * (1.0 + self.lr_gamma * progress.step) ** -self.lr_decay

    def predict(self, net: AdaptationNetwork, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) from features (B, width), in evaluation mode."""
        return net.head(features)

    def exported_head(self, net: AdaptationNetwork) -> nn.Module:
        """A module of Linear, BatchNorm1d, ReLU and Dropout layers that maps the features to
        :meth:`predict`'s logits."""
        return net.head

    def sample(
        self, net: AdaptationNetwork, progress: Progress, rng: Any, count: int
    ) -> tuple[Any, Any] | None:
        """Indices (source, target) of the global batch of ``count`` pairs; None: both sets shuffled and
        cycled independently."""
        return None

    def refresh(self, net: AdaptationNetwork, data: Any, progress: Progress) -> None:
        """Called on every rank before the first step of an epoch; may read
        ``data.features("source"|"target")`` (float32 (N, width)) and ``data.source_labels`` (int64 (N,)), and
        set buffers."""
