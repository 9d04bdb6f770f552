"""One face for detectors of several libraries: losses in training, boxes in prediction, the deepest feature
map beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Target(NamedTuple):
    """The objects of one image: ``boxes`` float32 (n, 4), x1 y1 x2 y2 in pixels of the network's input, and
    ``labels`` int64 (n,), 0..K-1."""

    boxes: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What was found in one image, the surest first; ``boxes`` and ``labels`` as in :class:`Target`,
    ``scores`` float32 (n,) in 0..1."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class DetectionNetwork(nn.Module):
    """Normalised images (B, 3, H, W) -> with targets (losses by name, deepest feature map (B, F, h, w) or
    None), else Detections an image.

    ``facts`` (JSON values) are what the same network is built from again without its published weights.
    """

    facts: dict[str, Any]

    def forward(self, x: Tensor, targets: Sequence[Target] | None = None) -> Any:
        raise NotImplementedError

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the backbone that are trained."""
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All others that are trained."""
        known = {id(p) for p in self.backbone_parameters()}
        return (p for p in self.parameters() if p.requires_grad and id(p) not in known)


class TorchvisionDetector(DetectionNetwork):
    """A detector of torchvision, whose own resizing and normalisation are switched off. Label 0 is
    torchvision's background."""

    def __init__(self, model: nn.Module, fixed_norm: bool, facts: Mapping[str, Any] | None = None):
        super().__init__()
        model.transform = _AsIs()
        self.model, self.fixed_norm = model, fixed_norm
        self.facts = {**(facts or {}), "fixed_norm": fixed_norm}
        self._deepest: list[Tensor] = []
        self._body.register_forward_hook(self._remember)
        if fixed_norm:
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train(self.training)

    def forward(self, x: Tensor, targets: Sequence[Target] | None = None) -> Any:
        self._deepest.clear()
        if targets is None:
            result = [
                Detections(f["boxes"].float(), f["labels"] - 1, f["scores"].float())
                for f in self.model(list(x))
            ]
            self._deepest.clear()
            return result
        losses = self.model(list(x), [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])
        return losses, self._deepest.pop()

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        return (p for p in self._body.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> TorchvisionDetector:
        super().train(mode)
        if self.fixed_norm:
            for norm in self._norms():
                norm.eval()
        return self

    @property
    def _body(self) -> nn.Module:
        return getattr(self.model.backbone, "body", self.model.backbone)

    def _norms(self) -> list[nn.Module]:
        """The backbone's batch norms, which a detector trained with small batches keeps as they were
        published."""
        return [m for m in self._body.modules() if isinstance(m, nn.BatchNorm2d)]

    def _remember(self, module: nn.Module, args: Any, maps: Any) -> None:
        self._deepest[:] = [list(maps.values())[-1] if isinstance(maps, Mapping) else maps]


class _AsIs(GeneralizedRCNNTransform):
    """Batches are already of one size and normalised."""

    def __init__(self) -> None:
        super().__init__(1, 1, [0.0] * 3, [1.0] * 3, size_divisible=1)

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: Any = None) -> Any:
        return image, target


class TransformersDetector(DetectionNetwork):
    """A DETR-like detector of transformers: boxes as centre and size relative to the image, matched by the
    library's own loss."""

    find_unused_parameters = True

    def __init__(self, model: nn.Module, score: float, most: int):
        super().__init__()
        self.model, self.score, self.most = model, score, most
        values = model.config.to_dict()
        values = {
            k: v
            for k, v in values.items()
            if k
            not in (
                "_name_or_path",
                "transformers_version",
                "use_pretrained_backbone",
                "dtype",
                "torch_dtype",
            )
        }
        self.facts = {
            "transformers": (
                {**values, "use_pretrained_backbone": False} if "use_timm_backbone" in values else values
            )
        }
        self.classes = model.config.num_labels

    def forward(self, x: Tensor, targets: Sequence[Target] | None = None) -> Any:
        height, width = x.shape[-2:]
        scale = x.new_tensor([width, height, width, height])
        if targets is not None:
            labels = [{"class_labels": t.labels, "boxes": _centred(t.boxes / scale)} for t in targets]
            result = self.model(pixel_values=x, labels=labels)
            parts = {
                k: v
                for k, v in result.loss_dict.items()
                if torch.is_tensor(v) and k in ("loss_ce", "loss_vfl", "loss_bbox", "loss_giou")
            }
            return {"loss": result.loss, **parts}, None
        result = self.model(pixel_values=x)
        return [
            self._detections(logits, boxes, scale)
            for logits, boxes in zip(result.logits.float(), result.pred_boxes.float(), strict=True)
        ]

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        return (
            p for name, p in self.model.named_parameters() if p.requires_grad and ".backbone." in f".{name}"
        )

    def _detections(self, logits: Tensor, boxes: Tensor, scale: Tensor) -> Detections:
        """Queries (Q, K or K + 1) and (Q, 4): a softmax with 'no object' last, or a sigmoid a class."""
        if logits.shape[-1] == self.classes + 1:
            scores, labels = logits.softmax(-1)[:, :-1].max(-1)
            query = torch.arange(len(scores), device=scores.device)
        else:
            flat = logits.sigmoid().flatten()
            scores, place = flat.topk(min(self.most, len(flat)))
            query, labels = place // logits.shape[-1], place % logits.shape[-1]
        chosen = scores >= self.score
        order = scores[chosen].argsort(descending=True, stable=True)[: self.most]
        corners = _corners(boxes[query[chosen][order]]).clamp(0, 1) * scale
        return Detections(corners, labels[chosen][order], scores[chosen][order])


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The loss of a detector: its own weighted sum where it names one, else the plain sum."""
    return losses["loss"] if "loss" in losses else torch.stack(list(losses.values())).sum()


def _centred(boxes: Tensor) -> Tensor:
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low], 1)


def _corners(boxes: Tensor) -> Tensor:
    centre, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], 1)
