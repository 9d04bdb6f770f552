"""DiffPure (Nie et al. 2022) by its published level: noised to a training step, all steps taken, no
guidance."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.diffusion.few_calls import AUTO, Few, Level, Solver


@dataclass(frozen=True)
class Diffpure(Few):
    """Ancestral steps from ``level`` to 0, one call a step: what guidance none gives at respacing 1000, start
    level + 1 and noise_at_first_step."""

    level: Level = 149

    @property
    def count(self) -> int:
        return 1 if self.level == AUTO else self.level + 1

    @property
    def how(self) -> Solver:
        return "ddpm"
