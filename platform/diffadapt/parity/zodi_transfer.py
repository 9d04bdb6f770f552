"""Parity of ZoDi's transfer with its authors' code: the conditioning map; schedule, encoding, one decoding
step and whole decodings.

A file is recognised by its keys. The inversion's network is a closed form of its own: eps(x, t, c) = 0.9
sqrt(1 - abar_t) x + 0.1 sin(3x + t / 1000) + c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.translation.conditioning import resize_area
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.diffusion.translation.inversion import (
    Predictor,
    ddim_mean,
    decode,
    encode,
    guided,
    predicted_clean,
    previous_levels,
)
from diffadapt.diffusion.translation.levels import ddim_timesteps, transfer_levels
from diffadapt.parity.check import EXACT_GATE, NumberFile, ParityRow, compare

Rows = Iterator[ParityRow]
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_NEEDED = {"z0", "c_pos", "c_neg", "q_noise", "step_noise", "alphas_cumprod"}


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows of a file of stochastic inversions or of conditioning maps; none for another file."""
    if set(file.arrays) >= {"color_by_id", "cond_ids", "cond_resized_area"}:
        yield _conditioning(file)
    if not set(file.arrays) >= _NEEDED:
        return
    abar = Schedule.from_scheduler_config(STABLE_DIFFUSION).alphas_cumprod
    yield from _schedule(file, abar)
    for key in sorted(file.arrays):
        if key.endswith("_z_enc"):
            name = key.removesuffix("_z_enc")
            for dtype in (torch.float32, torch.float64):
                yield from _Transfer(file, name, abar, dtype).rows()


def _conditioning(file: NumberFile) -> ParityRow:
    wanted = file.arrays["cond_resized_area"]
    got = resize_area(file.arrays["color_by_id"][file.arrays["cond_ids"]], wanted.shape[:2])
    return compare(file, "conditioning map, resized by area", got / 255.0, wanted / 255.0)


def _schedule(file: NumberFile, abar: np.ndarray) -> Rows:
    numbers = file.arrays
    yield compare(file, "noise schedule", abar, numbers["alphas_cumprod"])
    if "ddim_timesteps" not in numbers:
        return
    steps = ddim_timesteps(len(numbers["ddim_timesteps"]), len(abar))
    yield compare(file, "sampler's time steps", np.asarray(steps), numbers["ddim_timesteps"], EXACT_GATE)
    before = previous_levels(steps[::-1], abar)[::-1]
    yield compare(file, "sampler's levels", abar[list(steps)], numbers["ddim_alphas"])
    yield compare(file, "levels stepped to", np.asarray(before), numbers["ddim_alphas_prev"])
    still = torch.zeros(1)
    sigmas = [
        ddim_mean(still, still, float(abar[t]), prev, 1.0)[1] for t, prev in zip(steps, before, strict=True)
    ]
    yield compare(file, "deviations of the steps", np.asarray(sigmas), numbers["ddim_sigmas"])


class _Transfer:
    """One strength, computed in one precision from the file's noise."""

    def __init__(self, file: NumberFile, name: str, abar: np.ndarray, dtype: torch.dtype):
        self.file, self.name, self.abar, self.dtype = file, name, abar, dtype

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.file.arrays[key])).to(self.dtype)

    def rows(self) -> Rows:
        t_enc = int(self.file.arrays[f"{self.name}_t_enc"])
        n_decode = int(self.file.arrays[f"{self.name}_n_decode"])
        strength = t_enc / len(self.abar)
        levels = transfer_levels(
            TransferConfig(steps=len(self.file.arrays["step_noise"])), strength, len(self.abar)
        )
        if self.dtype == torch.float32:
            yield compare(
                self.file,
                f"{self.name}: levels",
                np.asarray([levels.encode, len(levels.decode)]),
                np.asarray([t_enc, n_decode]),
                EXACT_GATE,
            )
        z = encode(self.tensor("z0"), self.tensor("q_noise"), levels.encode, self.abar, self.plain)
        yield self.row("encoding", z, "z_enc")
        noises = list(self.tensor("step_noise"))
        t, predict = levels.decode[0], self.guided(9.0)
        yield self.row(
            "first step, clean", predicted_clean(z, predict(z, t), float(self.abar[t])), "step0_pred_x0"
        )
        yield self.row("first step", self.first_step(z, noises[0], levels.decode), "step0_x_prev")
        for guidance in (9, 1):
            out = decode(z, noises, levels.decode, self.abar, self.guided(float(guidance)))
            yield self.row(f"decoding, guidance {guidance}", out, f"decoded_cfg{guidance}")

    def first_step(self, z: torch.Tensor, noise: torch.Tensor, timesteps: Sequence[int]) -> torch.Tensor:
        t, abar_prev = timesteps[0], previous_levels(timesteps, self.abar)[0]
        mean, sigma = ddim_mean(z, self.guided(9.0)(z, t), float(self.abar[t]), abar_prev, 1.0)
        return mean + sigma * noise

    def row(self, check: str, got: torch.Tensor, key: str) -> ParityRow:
        return compare(
            self.file,
            f"{self.name}: {check} ({str(self.dtype).rpartition('.')[2]})",
            got.numpy(),
            self.file.arrays[f"{self.name}_{key}"],
        )

    def plain(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return self._network(x, t, self.tensor("c_pos"))

    def guided(self, scale: float) -> Predictor:
        return lambda x, t: guided(
            self._network(x, t, self.tensor("c_neg")), self._network(x, t, self.tensor("c_pos")), scale
        )

    def _network(self, x: torch.Tensor, t: int, condition: torch.Tensor) -> torch.Tensor:
        return 0.9 * math.sqrt(1.0 - self.abar[t]) * x + 0.1 * torch.sin(3 * x + t / 1000) + condition
