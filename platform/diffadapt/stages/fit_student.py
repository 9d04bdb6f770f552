"""Training stage for a student of an aligner (train/student)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError
from diffadapt.core.flops import Call, Network
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.given import check_unconditional
from diffadapt.models.weights import revision
from diffadapt.stages.align import Align
from diffadapt.stages.calls import unconditional
from diffadapt.stages.roles import STUDENT
from diffadapt.train.config import DistilConfig
from diffadapt.train.fit import Fit, Trained


@dataclass(frozen=True)
class FitStudent(Fit):
    """Inputs: images and what the teacher's :class:`Align` made of them, paired by key, then the
    unconditional model if it is trained by the recipe (``align.weights`` 'train'). The result is a diffusers
    folder with ``student`` in its diffadapt.json.
    """

    config: DistilConfig = DistilConfig()
    align: AlignConfig = AlignConfig()
    """The teacher."""
    image_size: int = 256
    channels: int = 3
    seed: int = 0

    kind = STUDENT

    def label(self) -> str:
        return f"student-{self.align.guidance}"

    def identity(self) -> dict[str, Any]:
        """Without what the inputs' digests hold: the pairs, and the teacher but its first level."""
        values = to_dict(self, identity_only=True)
        for name in ("teacher", "corruptions", "severities", "images", "copies"):
            values["config"].pop(name)
        first = ("start", "respacing", "noise_at_first_step")
        values["align"] = {name: getattr(self.align, name) for name in first}
        return values

    def network(self) -> Network | None:
        """The unconditional model's, whose first layer alone is wider; None where the recipe trains that."""
        return None if self.align.weights == "train" else unconditional(self.align.weights, {})

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c, network = self.config, unconditional(self.align.weights, inputs)
        batch = c.micro_batch or c.batch_size
        call = network and Call(network, float(c.calls), "training", c.precision, batch, states=4)
        return (call,) if call else None

    def revisions(self) -> dict[str, str]:
        return {} if self.align.weights == "train" else {"unconditional": revision(self.align.weights)}

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        check_unconditional(self.align.weights)
        return whole(inputs)

    def train(self, job: FitJob) -> Trained:
        from diffadapt.train.student import train_student

        pairs, failures, count = self._pairs(job)
        fitted = list(job.context.fitted.values())
        weights = fitted[0] if self.align.weights == "train" else self.align.weights
        run = self.run(job, failures)
        scalars = train_student(pairs, weights, self.align, self.config, self.seed, run, job.output)
        # The training wrote the folder itself, before its workers part.
        return Trained(scalars, lambda metrics: None, {"images": count}, failures)

    def _pairs(self, job: FitJob) -> tuple[Any, Sequence[Failure], int]:
        """Images beside what the teacher made of them, what is left out, and how many there are."""
        from diffadapt.data.prepare import prepare
        from diffadapt.stages.image_table import load_keyed_images

        files = [f for f in job.every_input() if not f.fitted]
        sides = [[f for f in files if (f.kind == Align.kind) == made] for made in (False, True)]
        (images, _, keys, lost), (made, _, made_keys, all_lost) = (
            load_keyed_images(side, job.read, self.channels, lambda a: prepare(a, self.image_size))
            for side in sides
        )
        at = {key: i for i, key in enumerate(keys)}
        order = [(at[key], i) for i, key in enumerate(made_keys) if key in at]
        if not order:
            raise DataError(
                "There are no images to train the student on, or none that the teacher could align: check"
                " the images of the source and the synthetic ones."
            )
        # What the teacher could not make of an image names the image too.
        failures = list({f.key: f for f in [*lost, *all_lost]}.values())
        return _paired(images, made, order), failures, len(order)


class _Pairs:
    """``pairs[i]`` -> (uint8 (H, W, 2C), None), of which some lie on the disk."""

    def __init__(self, images: Any, made: Any, order: Sequence[tuple[int, int]]):
        self.images, self.made, self.order = images, made, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Any, None]:
        import numpy as np

        i, j = self.order[index]
        return np.concatenate([_image(self.images, i), _image(self.made, j)], axis=2), None


def _image(images: Any, i: int) -> Any:
    item = images[i]
    return item[0] if isinstance(item, tuple) else item


def _paired(images: Any, made: Any, order: Sequence[tuple[int, int]]) -> Any:
    import numpy as np

    from diffadapt.train.diffusion_batches import ArrayImages

    if not (isinstance(images, np.ndarray) and isinstance(made, np.ndarray)):
        return _Pairs(images, made, order)
    first, second = (list(side) for side in zip(*order, strict=True))
    return ArrayImages(np.concatenate([images[first], made[second]], axis=3))
