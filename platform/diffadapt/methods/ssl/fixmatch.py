"""FixMatch (Sohn et al. 2020, "FixMatch: Simplifying semi-supervised learning with consistency and
confidence")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffadapt.core.ranges import Fraction
from diffadapt.methods.ssl._consistency import Consistency


@dataclass(frozen=True)
class FixMatch(Consistency):
    """Strong views learn the weak view's prediction where max p_weak >= ``threshold`` (equation 4). ``mu`` is
    7 in the paper, 1 where 224-pixel images are fine-tuned."""

    threshold: Fraction = 0.95
    forward: Literal["separate", "joint"] = "separate"

    title = "FixMatch"

    def weigh(self, net, weak, batch):
        confidence, targets = weak.softmax(1).max(1)
        return targets, (confidence >= self.threshold).to(weak.dtype)
