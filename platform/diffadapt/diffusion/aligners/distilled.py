"""A student of another aligner: its images in one to four network calls, without a gradient
(diffusion/student; trained by stages/fit_student)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from diffadapt.core.errors import RecipeError
from diffadapt.core.ranges import Between
from diffadapt.diffusion.aligners.base import Aligner, Calls, Tools

if TYPE_CHECKING:
    import torch

    from diffadapt.diffusion.aligners.base import Run
    from diffadapt.diffusion.noise import ItemNoise


@dataclass(frozen=True)
class Distilled(Aligner):
    """The clean image that a student predicts at its last call."""

    calls: Annotated[int, Between(1, 4)] = 1
    """Network calls an image, at most as many as the student was trained for."""
    student: str = "train"
    """The folder of a trained student, or ``train``: the recipe trains it (``distil``)."""

    needs_student: ClassVar[bool] = True
    unread: ClassVar[tuple[str, ...]] = ("respacing", "start", "noise_at_first_step", "scale", "factor")

    def cost(self, config: Any) -> Calls:
        return Calls(self.calls)

    def steps_label(self, config: Any) -> str:
        return str(self.calls)

    def draws(self, start: int) -> int:
        return 1

    def open(self, tools: Tools) -> Run:
        import torch

        from diffadapt.diffusion.student import StudentNetwork, demand_calls, student_steps

        network = tools.network
        if not isinstance(network, StudentNetwork):
            raise RecipeError(
                "align.guidance is 'distilled' but the network is no student: open it with load_student"
                " (diffusion/student)."
            )
        demand_calls(network.levels, self.calls)

        @torch.no_grad()
        def run(x_star: torch.Tensor, noise: ItemNoise, seeds: Sequence[int]) -> torch.Tensor:
            steps = student_steps(network.eps_model, network.schedule, network.levels, x_star, noise.draw())
            return next(x0 for k, x0 in enumerate(steps, 1) if k == self.calls)

        return run
