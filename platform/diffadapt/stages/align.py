"""Alignment and projection stage: noise and denoise with the unconditional model (SDA sections 4.2 and 4.3).

The same stage aligns synthetic images and projects target images; only its input differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.errors import RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.identity import item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext, one_to_one
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.given import check_student, check_unconditional
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.weights import revision, weights_label
from diffadapt.stages.calls import of_unconditional
from diffadapt.stages.choose_level import LEVEL, chosen_level
from diffadapt.stages.models import classifier_identity, classifier_revisions, open_classifier
from diffadapt.stages.roles import STUDENT


@dataclass(frozen=True)
class Align(Stage):
    """One shard for each shard of the images, the first input; then, if they are trained by the recipe, the
    unconditional model (``config.weights`` 'train'), or for an aligner that needs one its student in that
    place, and the classifier (``classifier.name`` 'train'; only GDA looks at it), and where the aligner's
    level is 'auto' the one that was chosen (stages/choose_level).
    """

    config: AlignConfig = AlignConfig()
    seed: int = 0
    classifier: ClassifierConfig | None = None
    num_classes: int | None = None

    kind = "aligned"

    @property
    def may_warn(self) -> bool:  # type: ignore[override]
        """Only batches whose images act on each other have something to say."""
        return self.config.aligner.coupled

    def label(self) -> str:
        c = self.config
        return f"{weights_label(c.network)}-{c.guidance}-{c.aligner.steps_label(c)}"

    def identity(self) -> dict[str, Any]:
        values = {"config": self.config.identity(), "seed": self.seed}
        if self.config.aligner.needs_classifier:
            values["classifier"] = classifier_identity(self.classifier) if self.classifier else None
        return values

    def revisions(self) -> dict[str, str]:
        role, weights = self.config.network_role
        own = {} if weights == "train" else {role: revision(weights)}
        if self.config.aligner.needs_classifier and self.classifier:
            own |= classifier_revisions(self.classifier, False, self.num_classes)
        return own

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        c.check()
        images, *fitted = inputs.values()
        if not c.aligner.needs_student:
            check_unconditional(c.network)
        else:
            check_student(c.network, c.aligner.calls)
            if c.network == "train" and all(node.stage.kind != STUDENT for node in fitted):
                raise RecipeError(
                    f"align.guidance is {c.guidance!r} but there is no student: give the folder of one as"
                    f" align.{c.guidance}.student, or use a recipe that trains one."
                )
        if c.chooses and all(node.stage.kind != LEVEL for node in fitted):
            raise RecipeError(
                f"align.{c.guidance}.level is 'auto', but nothing chooses it here: give the"
                " training step that images are noised to, 0 to 999."
            )
        return one_to_one(images, fitted)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        batch = c.coupled_batch if c.aligner.coupled else c.batch_size
        cost = c.cost if c.aligner.counted else None
        return of_unconditional(c.network, inputs, cost, precision=c.precision, batch=batch, casts=True)

    def open(self, context: WorkContext) -> _Aligner:
        return _Aligner(self, context)


class _Aligner:
    def __init__(self, stage: Align, context: WorkContext):
        from diffadapt.data.image import encode_jpeg, encode_png
        from diffadapt.data.prepare import prepare
        from diffadapt.diffusion.network import load_unconditional
        from diffadapt.diffusion.projector import Projector
        from diffadapt.diffusion.student import load_student
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.decoding import Decoder
        from diffadapt.stages.encoding import Encoder

        c = stage.config
        if c.chooses:
            c = c.at(chosen_level(context.fitted_by(LEVEL)[0]))
        fitted = list(context.fitted.items())
        weights = fitted.pop(0)[1] if c.network == "train" else c.network
        load = load_student if c.aligner.needs_student else load_unconditional
        self.stage, self.config = stage, c
        self.network = load(weights, context.device, c.precision, c.compile)
        judge = None
        if c.aligner.needs_classifier and stage.classifier is not None:
            judge = _judge(
                open_classifier(stage.classifier, dict(fitted), stage.num_classes, context.device),
                stage.classifier,
            )
        self.projector = Projector(self.network, c, context.device, judge)
        self.encoder = Encoder(
            (lambda image: encode_jpeg(image, 75)) if c.storage == "jpeg75" else encode_png
        )
        self.coupled = c.aligner.coupled
        size = c.coupled_batch if self.coupled else context.batch_size or c.batch_size
        self.batcher = Batcher(size, self.coupled)
        self.decoder = Decoder(
            self.network.channels,
            lambda image, key: prepare(image, self.network.image_size),
            context.readers,
        )

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def begin(self, inputs: Sequence[Rows]) -> None:
        """What comes next, told while this shard is worked on."""
        self.decoder.begin(inputs[0], self.batcher.batch_size)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np
        import torch

        decoded = self.decoder.open(inputs[0], self.batcher.batch_size)
        jpeg = self.config.storage == "jpeg75"

        def seeds(batch: Sequence[int]) -> list[int]:
            return [item_seed(self.stage.seed, "align", decoded.keys[i], self.stage.kind) for i in batch]

        def process(batch: Sequence[int]) -> list[Future[bytes]]:
            stacked = np.stack([decoded.images[i] for i in batch])
            x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
            out = self.projector.project(x, seeds(batch)).permute(0, 2, 3, 1).cpu().numpy()
            return self.encoder.submit(out)

        done, failures = self.batcher.run(range(len(inputs[0])), decoded.keys, process, decoded.reach)
        index = [i for i, _ in done]
        table = image_table(
            [decoded.keys[i] for i in index],
            [decoded.labels[i] for i in index],
            [b.result() for _, b in done],
            seeds(index),
            ".jpg" if jpeg else ".png",
        )
        said = _fewer(len(decoded.keys), self.stage.config.coupled_batch) if self.coupled else []
        return Rows(table, decoded.failures + failures, said)


def _fewer(images: int, batch: int) -> list[str]:
    """What is said of a last coupled batch that is not full."""
    left = images % batch
    if not left:
        return []
    return [
        f"The last {left} of a shard's {images} images are guided in a batch of {left}, not of {batch}"
        f" (align.coupled_batch), {(batch / left) ** 0.5:.1f} times as strongly each: make shards of a"
        " multiple of it (target.data.block; synth.images_per_shard x classes_per_shard)."
    ]


def _judge(model: Any, config: ClassifierConfig) -> Any:
    """Images in [-1, 1] -> logits, differentiable: bilinear to the classifier's crop, then its
    normalisation."""
    import torch
    import torch.nn.functional as F

    from diffadapt.models.inputs import with_inputs

    model.requires_grad_(False)
    config = with_inputs(config)

    def logits(images: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(images, size=(config.crop, config.crop), mode="bilinear", antialias=True)
        x = (
            x.mean(1, keepdim=True)
            if config.in_channels == 1 and x.shape[1] == 3
            else x.expand(-1, config.in_channels, -1, -1)
        )
        mean = torch.tensor(config.mean, device=x.device).view(1, -1, 1, 1)
        std = torch.tensor(config.std, device=x.device).view(1, -1, 1, 1)
        return model(((x + 1) / 2 - mean) / std)

    return logits
