"""Sampling schedulers by name, made from the configuration of the pipeline's own; and step noise that belongs
to an image."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

from diffadapt.core.errors import RecipeError
from diffadapt.diffusion.generators.loading import first_line

CLASSES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
}


def with_scheduler(scheduler: Any, name: str, steps: int) -> Any:
    """The scheduler ``name`` with the noise schedule and prediction type of ``scheduler``; 'pipeline' leaves
    it as it is.

    Raises RecipeError when the pair does not fit, or when the scheduler cannot take ``steps``.
    """
    config = scheduler.config
    own = type(scheduler).__name__
    flow = (
        own.startswith("FlowMatch")
        or config.get("prediction_type") == "flow_prediction"
        or config.get("use_flow_sigmas")
    )
    if name != "pipeline":
        if flow and name != "euler":
            raise RecipeError(
                f"The pipeline samples by flow matching ({own}), which {name!r} cannot: set"
                " generator.scheduler to 'pipeline' or 'euler'."
            )
        cls = getattr(diffusers, "FlowMatchEulerDiscreteScheduler" if flow else CLASSES[name])
        changes = {"algorithm_type": "dpmsolver++"} if name == "dpmsolver++" else {}
        scheduler = cls.from_config(config, **changes)
    if not scheduler.config.get("use_dynamic_shifting"):  # those need the picture's size first
        try:
            scheduler.set_timesteps(steps)
        except (ValueError, IndexError) as error:
            raise RecipeError(
                f"{type(scheduler).__name__} cannot take {steps} steps ({first_line(error)}): set another"
                " generator.steps or generator.scheduler."
            ) from error
    return scheduler


@contextlib.contextmanager
def own_noise(scheduler: Any, generators: list[torch.Generator]) -> Iterator[None]:
    """While inside, steps that draw noise use ``generators`` even where the pipeline forgets to pass them on
    (SD3, FLUX)."""
    step = scheduler.step
    if "generator" not in inspect.signature(step).parameters:
        yield
        return

    @functools.wraps(step)  # pipelines look at the signature
    def seeded(*args: Any, **kwargs: Any) -> Any:
        kwargs["generator"] = kwargs.get("generator") or generators
        return step(*args, **kwargs)

    scheduler.step = seeded
    try:
        yield
    finally:
        del scheduler.step
