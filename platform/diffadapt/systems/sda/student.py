"""The part of SDA's graph that aligns images, and that trains an aligner's student: corrupted source and
synthetic images, what the teacher makes of them, and the fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.core.pipeline import Builder
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.stages.align import Align
from diffadapt.stages.corrupt_training import CorruptTraining
from diffadapt.stages.fit_student import FitStudent
from diffadapt.stages.roles import STUDENT


class AligningGraph(Builder):
    """A graph whose nodes align images. ``r``: the recipe; ``uncond``: the unconditional model that it
    trains; ``has_source``: whether there is a node source_images."""

    r: Any
    uncond: tuple[str, ...] = ()
    has_source: bool = False

    def synth(self) -> str:
        """The node of the synthetic images."""
        raise NotImplementedError

    def align(self, name: str, config: AlignConfig, images: str, *further: str) -> str:
        """A node that aligns ``images`` without a look at the classifier; ``further``: nodes that the aligner
        reads beside the network."""
        return self.add(name, Align(config, self.r.seed), images, *self.networks(config), *further)

    def networks(self, config: AlignConfig) -> tuple[str, ...]:
        """The nodes of the network that images of an aligner go through, where the recipe trains it."""
        if not config.aligner.needs_student:
            return self.uncond
        return (self._student(config.aligner.calls),) if config.network == "train" else ()

    def _student(self, calls: int) -> str:
        """The node of a student that is to be run with ``calls``, with all that it is trained on. Raises
        RecipeError for settings that do not fit."""
        r, d, data = self.r, self.r.distil, self.r.target.data
        teacher = replace(r.align, guidance=d.teacher)
        known = teacher.aligner
        if known.needs_student or known.needs_classifier or "start" in known.unread:
            raise RecipeError(
                f"distil.teacher is {d.teacher!r}, but a teacher must be an aligner that begins at"
                " align.start and does not look at the classifier, such as dda or none."
            )
        if calls > d.calls:
            raise RecipeError(
                f"align.distilled.calls is {calls} but the student is trained for {d.calls}: raise"
                " distil.calls, or lower it."
            )
        sets = ["source_images"] if self.has_source else []
        if "sda" in r.methods or r.cheap:
            sets.append(self.synth())
        if not sets:
            raise RecipeError(
                "There are no images to train the student on: give source images (--source.path), or"
                " synthetic ones (sda among the methods)."
            )
        pairs = []
        for images in sets:
            stage = CorruptTraining(
                d.corruptions, d.severities, d.images, d.copies, data.channels, data.image_size, r.seed
            )
            corrupted = self.add(f"student_{images}", stage, images)
            pairs += [corrupted, self.align(f"{corrupted}_aligned", teacher, corrupted)]
        fit = FitStudent(d, teacher, data.image_size, data.channels, r.seed)
        return self.add(STUDENT, fit, *pairs, *self.uncond, output=STUDENT)
