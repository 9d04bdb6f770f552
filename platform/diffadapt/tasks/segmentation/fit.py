"""Training of a segmenter on source and transferred images (ZoDi section 3.3), or on a part of them (its
ablations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import IGNORED, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.flops import Call
from diffadapt.core.stage import FitJob, NodePlan, whole
from diffadapt.data.labels import some
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.normalisation import normalisation_differences, with_normalisation
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.given import segmenter_notes
from diffadapt.models.segmentation.source import (
    SMALLEST,
    check_segmenter,
    segmenter_identity,
    segmenter_revisions,
    shell,
)
from diffadapt.stages.calls import STATES
from diffadapt.stages.roles import row_inputs
from diffadapt.tasks.segmentation.config import SegmentTraining, check_jitter
from diffadapt.tasks.segmentation.losses import method_of
from diffadapt.train.fit import Fit, Trained, too_few

PREDICTION = ("precision",)
"""Settings of SegmenterConfig that training does not look at."""
MANY = 5
"""Warnings about label maps that are shown one by one."""


@dataclass(frozen=True)
class FitSegmenter(Fit):
    """Inputs: source scenes; transferred scenes and the decisions of quality control, unless the method is
    source_only; and, unless ``training.select`` is last, labelled scenes to choose the epoch by (the source's
    test images, or for the oracle the target).

    With the folder of a fitted segmenter among them the training goes on from its weights.

    The result is a segmenter folder (models/segmentation/folder.py).
    """

    config: SegmenterConfig = SegmenterConfig()
    training: SegmentTraining = SegmentTraining()
    classes: ClassTable = ClassTable()
    method: str = "zodi"

    kind = "segmenter"

    def label(self) -> str:
        return self.method

    def identity(self) -> dict[str, Any]:
        segmenter = {
            k: v
            for k, v in segmenter_identity(with_normalisation(self.config)).items()
            if k not in PREDICTION
        }
        training = to_dict(self.training, identity_only=True)
        if not method_of(self.method).similar:
            training.pop("similarity")
        if self.training.select == "last":
            training.pop("candidates")
        return {
            "segmenter": segmenter,
            "training": training,
            "classes": to_dict(self.classes, identity_only=True),
            "method": self.method,
        }

    def revisions(self) -> dict[str, str]:
        return segmenter_revisions(self.config)

    def notes(self) -> tuple[str, ...]:
        differs = normalisation_differences(self.config)
        return (*segmenter_notes(self.config), *([differs] if differs else ()))

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        kind = method_of(self.method)
        count = len(self.classes.names)
        if count < 2:
            raise RecipeError(
                "Segmentation needs at least two classes, but there"
                f" {'is one' if count == 1 else 'are none'}: give a class table with more."
            )
        check_segmenter(self.config)
        segmenter_notes(self.config)
        self._check_sizes()
        check_jitter(self.training.jitter)
        rows = sum(not node.stage.fit_stage for node in inputs.values())
        wanted = 1 + kind.transferred + (self.training.select != "last")
        assert rows == wanted, (
            f"{self.method} with select {self.training.select} reads {wanted} sets of scenes, not {rows}"
        )
        return whole(inputs)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call]:
        c, images = self.training, 1 + method_of(self.method).transferred
        size = c.crop if any(c.crop) else self.config.size
        network = shell(self.config, len(self.classes.names), size)
        mode = "forward" if self.config.frozen else "training"
        shared = {"precision": c.precision, "batch": images * c.batch_size, "states": STATES[c.optimizer]}
        return (Call(network, 1.0, mode, **shared),)

    def _check_sizes(self) -> None:
        crop, size = self.training.crop, self.config.size
        if any(crop) and not all(crop):
            raise RecipeError(f"training.crop is {crop}: give both height and width, or 0 0 for no crop.")
        if crop[0] > size[0] or crop[1] > size[1]:
            raise RecipeError(
                f"training.crop {crop} is larger than segmenter.size {size}, out of which it is cut: lower"
                " it, or raise segmenter.size."
            )
        if any(crop) and min(crop) < SMALLEST:
            raise RecipeError(
                f"training.crop is {crop}, but the networks need at least {SMALLEST} pixels on either side."
            )
        if self.training.batch_size == 1 and self.config.pools_image:
            raise RecipeError(
                "training.batch_size is 1, but the batch normalisation behind DeepLabv3+'s image pooling"
                " needs at least two pairs: raise it."
            )

    def train(self, job: FitJob) -> Trained:
        import torch

        from diffadapt.models.segmentation.build import build_segmenter
        from diffadapt.models.segmentation.folder import load_segmenter, save_segmenter
        from diffadapt.tasks.segmentation.training import fit_segmenter

        source, transferred, chosen_by = self._sets(job)
        failures = {f.key: f for s in (source, transferred, chosen_by) if s is not None for f in s.failures}
        job.count(failures.values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            net = build_segmenter(self.config, len(self.classes.names))
        if start := job.context.fitted_by(self.kind):
            net.load_state_dict(load_segmenter(start[0])[0].state_dict())
        run = self.run(job, chooser=self._chooser(job, chosen_by, source, transferred))
        scalars = fit_segmenter(source, transferred, net, self.training, self.method, run, inputs=self.config)

        def save(metrics: dict[str, Any]) -> None:
            selection = metrics.get("selection", {"rule": "last"})
            extra = {
                "method": self.method,
                "training": to_dict(self.training, identity_only=True),
                "selection": selection["rule"],
                "chosen_step": selection.get("chosen_step"),
                "images": metrics["images"],
                "pairs": metrics["pairs"],
            }
            save_segmenter(net.cpu(), job.output, self.config, self.classes, extra)

        return Trained(
            scalars,
            save,
            {"left_out": _left_out(source, transferred, scalars["left_out"])},
            failures.values(),
            self._warnings(scalars, source),
        )

    def _sets(self, job: FitJob) -> tuple[Any, Any, Any]:
        """(source, transferred or None, the scenes to choose the epoch by or None). Raises DataError when one
        is empty."""
        from diffadapt.tasks.segmentation.scene_sets import demand_scenes, load_scenes, load_transferred

        files, size, count = row_inputs(job), self.config.size, len(self.classes.names)
        transferred = chosen_by = keep = None
        why = "none has a readable label map"
        if method_of(self.method).transferred:
            transferred = load_transferred(job, files[1], size, count)
            keep = set(transferred.keys)
            why = "none of those that were transferred has a readable label map"
        source = load_scenes(files[0], job.read, size, count, keep=keep, reason="without_transferred")
        demand_scenes(source, "labelled source", why)
        if not _labelled(source):
            said = f" ({source.warnings[0].rstrip('.')})" if source.warnings else ""
            raise DataError(
                f"No pixel of the {len(source)} source scenes has a class to learn{said}: check that the"
                " class table lists the values of the label files."
            )
        if self.training.select != "last":
            chosen_by = load_scenes(files[-1], job.read, size, count)
            demand_scenes(
                chosen_by,
                "labelled",
                f"training.select {self.training.select} has none to choose the epoch by: set it to last",
            )
        return source, transferred, chosen_by

    def _chooser(self, job: FitJob, scenes: Any, source: Any, transferred: Any) -> Any:
        """Whoever picks the epoch (tasks/segmentation/select.py); None keeps the last."""
        if scenes is None:
            return None
        from diffadapt.tasks.segmentation.batches import pair, steps_per_epoch
        from diffadapt.tasks.segmentation.select import SceneJudge
        from diffadapt.train.candidates import Chooser, candidate_steps

        training, count = self.training, len(self.classes.names)
        epoch = steps_per_epoch(len(pair(source, transferred)), training.batch_size)
        steps = candidate_steps(training.epochs, epoch, training.candidates)
        device, batch_size = job.reporter.device, self.config.batch_size
        judge = SceneJudge(training.select, scenes, count, device, batch_size)
        return Chooser(job.checkpoints, steps, judge)

    def _warnings(self, metrics: Mapping[str, Any], source: Any) -> list[str]:
        """What reading the source had to say, unless the transfer, which reads it too, says so; and a set
        smaller than a batch."""
        pairs, size = metrics["pairs"], self.training.batch_size
        said = [] if pairs else source.warnings
        more = len(said) - MANY
        rest = [f"{more} more label maps of the source gave such warnings."] if more > 0 else []
        count, unit = (pairs, "pair") if pairs else (metrics["images"], "image")
        return [
            *said[:MANY],
            *rest,
            *self._absent(source),
            *too_few(f"{self.method} trains on", count, unit, size),
        ]

    def _absent(self, source: Any) -> list[str]:
        """A sentence on classes without one pixel: nothing of them is learnt, and a mean over the others
        looks the better for it."""
        if source.present is None:
            return []
        names = [name for c, name in enumerate(self.classes.names) if c not in source.present]
        if not names:
            return []
        many = len(names) > 1
        return [
            f"The class{'es' if many else ''} {some(names)} {'have' if many else 'has'} not one pixel in the"
            f" {len(source):,} source scenes that are trained on: check that the class table lists what the"
            " label maps hold."
        ]


def _left_out(source: Any, transferred: Any, unpaired: Mapping[str, int]) -> dict[str, int]:
    """How many source scenes are not trained on, by reason: refused by quality control, without a transferred
    image, unlabelled."""
    result = dict(source.left_out)
    refused = 0 if transferred is None else transferred.left_out.get("refused", 0)
    if refused:
        result["refused"] = refused
        result["without_transferred"] = max(0, result.get("without_transferred", 0) - refused)
    for reason, count in unpaired.items():
        result[reason] = result.get(reason, 0) + count
    return {reason: count for reason, count in result.items() if count}


def _labelled(scenes: Any) -> bool:
    """Whether any pixel of ``scenes`` has a class."""
    return any(bool((scenes.get(i)[1] != IGNORED).any()) for i in range(len(scenes)))
