"""What the aligners of a few network calls have in common: a level of noise that they start from and a number
of calls, both their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import Between, Steps
from diffadapt.diffusion.aligners.base import Aligner, Calls, Tools

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.aligners.base import Run
    from diffadapt.diffusion.lowpass import LowPass
    from diffadapt.diffusion.noise import ItemNoise
    from diffadapt.diffusion.samplers import Guide

AUTO = "auto"
Level = Annotated[int, Between(0, 999)] | Literal["auto"]
Solver = Literal["ddim", "dpmsolver++", "ddpm"]


@dataclass(frozen=True)
class Few(Aligner):
    """Noise to ``level``, then ``count`` calls with ``solver`` down to a clean image (Schedule.descent)."""

    unread: ClassVar[tuple[str, ...]] = ("respacing", "start", "noise_at_first_step", "scale")

    level: Level = AUTO
    """The training step that images are noised to, 0 to 999; auto: chosen by the recipe on target images
    without their labels (stages/choose_level)."""

    @property
    def count(self) -> int:
        """Network calls."""
        return 1

    @property
    def how(self) -> Solver:
        """The sampler; with one call all are alike."""
        return "ddim"

    def guide(self, target: torch.Tensor, lowpass: LowPass) -> Guide | None:
        """What moves the predicted x0 of a batch whose images' low frequencies are ``target``."""
        return None

    def cost(self, config: Any) -> Calls:
        return Calls(self.count)

    def steps_label(self, config: Any) -> str:
        return f"{self.level if self.level == AUTO else f't{self.level}'}-{self.count}"

    def draws(self, start: int) -> int:
        return self.count if self.how == "ddpm" else 1

    def open(self, tools: Tools) -> Run:
        import torch

        from diffadapt.diffusion.lowpass import LowPass
        from diffadapt.diffusion.samplers import sample
        from diffadapt.diffusion.step import q_sample

        if self.level == AUTO:
            raise RecipeError(
                f"The level of {type(self).__name__} is 'auto', which only a recipe can choose: give its"
                " training step."
            )
        schedule = tools.network.schedule.descent(self.level, self.count)
        lowpass, top = LowPass(tools.config.factor), self.count - 1

        @torch.no_grad()
        def run(x_star: torch.Tensor, noise: ItemNoise, seeds: Sequence[int]) -> torch.Tensor:
            x = q_sample(schedule, top, x_star, noise.draw())
            guide = self.guide(lowpass(x_star), lowpass)
            return sample(tools.network, x, schedule, self.how, noise=noise.draw, guide=guide)

        return run


@dataclass(frozen=True)
class Stepped(Few):
    """A number of calls and a solver of one's own."""

    calls: Steps = 2
    solver: Solver = "dpmsolver++"

    @property
    def count(self) -> int:
        return self.calls

    @property
    def how(self) -> Solver:
        return self.solver

    def steps_label(self, config: Any) -> str:
        return f"{super().steps_label(config)}-{self.solver.replace('+', 'p')}"


def mixed(weight: float, target: torch.Tensor, lowpass: LowPass) -> Guide | None:
    """x0 <- x0 + weight (phi(x*) - phi(x0)): its low frequencies are mixed with the image's."""
    return (lambda x0, _: x0 + weight * (target - lowpass(x0))) if weight else None
