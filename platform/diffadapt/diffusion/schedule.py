"""Noise schedules as float64 tables, and their respacing to fewer steps (SDA supplement; improved DDPM,
section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from diffadapt.core.errors import RecipeError, WeightsError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
VarianceType = Literal["learned_range", "fixed_small", "fixed_large"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete diffusion process over N (possibly thinned) steps, from clean (index 0) to noisy (index N -
    1).

    All tables are float64 arrays of shape (N,). ``timesteps`` holds what the network receives at each index.
    """

    timesteps: np.ndarray
    """int64, strictly increasing: the training step that index i stands for."""
    alphas_cumprod: np.ndarray
    """abar_i: the share of signal power left at index i."""
    prediction_type: PredictionType = "epsilon"
    """What the network's first C output channels are: the noise, v = sqrt(abar) eps - sqrt(1 - abar) x0, or
    x0."""
    fixed_variance: VarianceType = "fixed_small"
    """Variance of a network without learned variance: the posterior's (small) or beta (large)."""
    num_train_timesteps: int = field(default=1000)

    @classmethod
    def linear(
        cls, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, **kwargs: Any
    ):
        """betas evenly spaced between ``beta_start`` and ``beta_end`` (Ho et al. 2020)."""
        return cls.from_betas(
            np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64), **kwargs
        )

    @classmethod
    def from_betas(cls, betas: np.ndarray, **kwargs: Any) -> Schedule:
        """The schedule of all training steps from their betas, shape (T,), each in (0, 1]."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas <= 1)).all():
            raise WeightsError(
                "The scheduler's betas must be a non-empty list of numbers in (0, 1]; mend"
                " scheduler_config.json."
            )
        steps = np.arange(len(betas), dtype=np.int64)
        return cls(steps, np.cumprod(1.0 - betas), num_train_timesteps=len(betas), **kwargs)

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, Any]) -> Schedule:
        """The schedule of a diffusers scheduler_config.json (any scheduler class: only the training process
        is read).

        Raises WeightsError for a beta schedule or prediction type that has no table here.
        """
        count = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        kind = config.get("beta_schedule", "linear")
        if config.get("trained_betas") is not None:
            betas = np.asarray(config["trained_betas"], dtype=np.float64)
        elif kind == "linear":
            betas = np.linspace(start, end, count, dtype=np.float64)
        elif kind == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, count, dtype=np.float64) ** 2
        elif kind == "squaredcos_cap_v2":
            edge = np.arange(count + 1) / count
            abar = np.cos((edge + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1.0 - abar[1:] / abar[:-1], 0.999)
        else:
            raise WeightsError(
                f"The scheduler's beta_schedule {kind!r} is not known; use linear, scaled_linear,"
                " squaredcos_cap_v2 or trained_betas."
            )
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise WeightsError(
                f"The scheduler's prediction_type {prediction!r} is not known; use epsilon, v_prediction or"
                " sample."
            )
        variance = (
            "fixed_large" if str(config.get("variance_type", "")).startswith("fixed_large") else "fixed_small"
        )
        schedule = cls.from_betas(betas, prediction_type=prediction, fixed_variance=variance)
        if config.get("rescale_betas_zero_snr"):
            root = np.sqrt(schedule.alphas_cumprod)
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            schedule = replace(schedule, alphas_cumprod=root**2)
        return schedule

    def respace(self, steps: int) -> Schedule:
        """The schedule thinned to ``steps`` steps that keep the first and the last one, as evenly as integers
        allow.

        The position advances by (T - 1) / (steps - 1) and each sum is rounded half to even, as the published
        samplers do; this equals round(i (T - 1) / (steps - 1)) up to floating-point ties. abar is taken at
        the kept steps.
        Raises RecipeError unless 1 <= steps <= T.
        """
        total = len(self)
        if not 1 <= steps <= total:
            raise RecipeError(
                f"A schedule of {total} steps cannot be thinned to {steps}; ask for 1 to {total} steps."
            )
        if steps == total:
            return self
        stride = (total - 1) / (steps - 1) if steps > 1 else 1.0
        position, kept = 0.0, []
        for _ in range(steps):
            kept.append(round(position))
            position += stride
        index = np.asarray(kept, dtype=np.int64)
        return replace(self, timesteps=self.timesteps[index], alphas_cumprod=self.alphas_cumprod[index])

    def descent(self, level: int, calls: int) -> Schedule:
        """The ``calls`` steps from index ``level`` down to a clean image, evenly: the indices
        (level + 1) k / calls - 1, k = 1 .. calls, rounded half to even ("trailing" spacing of diffusers: the
        last call still has noise to take away). Raises RecipeError unless 0 <= level < N and
        1 <= calls <= level + 1.
        """
        if not 0 <= level < len(self):
            raise RecipeError(
                f"The level {level} is no step of the network's {len(self)}: give 0 to {len(self) - 1}."
            )
        if not 1 <= calls <= level + 1:
            raise RecipeError(
                f"Level {level} has {level + 1} steps above the clean image, which cannot be gone in {calls}"
                f" network calls: give 1 to {level + 1} calls, or a higher level."
            )
        index = np.round((level + 1) * np.arange(1, calls + 1) / calls).astype(np.int64) - 1
        return replace(self, timesteps=self.timesteps[index], alphas_cumprod=self.alphas_cumprod[index])

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """abar_{i-1}, with abar_{-1} = 1."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def betas(self) -> np.ndarray:
        """beta_i = 1 - abar_i / abar_{i-1}."""
        return 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{i-1} | x_i, x_0); 0 at index 0."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """log of ``posterior_variance`` with the zero at index 0 replaced by the value at index 1."""
        first = self.posterior_variance[1] if len(self) > 1 else self.betas[0]
        return np.log(np.append(first, self.posterior_variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """Weight of x0 in the posterior mean."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """Weight of x_i in the posterior mean."""
        return (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)
