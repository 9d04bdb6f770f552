"""SDA's parity checks: schedule and steps, low-pass operator, ensemble and preprocessing; networks are next
door.

Files are recognised by their keys, never by their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from diffadapt.data.prepare import prepare
from diffadapt.diffusion.lowpass import LowPass, matrices
from diffadapt.diffusion.step import ancestral_step, q_sample
from diffadapt.metrics.ensemble import choice, ensemble, softmax
from diffadapt.parity import sda_networks as networks
from diffadapt.parity.check import EXACT_GATE, UINT8_GATE, NumberFile, compare, groups
from diffadapt.parity.sda_networks import Rows, linear_schedule, tensor

TABLE_GATE = 1e-10
"""Float64 tables."""
TABLES = (
    "betas",
    "alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    for form in (networks.weights, networks.forward, networks.guided, networks.dit_loop):
        yield from form(file, siblings)
    for form in (_lowpass, _steps, _ensemble, _preprocessing):
        yield from form(file)


def _steps(file: NumberFile) -> Rows:
    for prefix, own in groups(file.arrays, "timestep_map", "index", "x", "model_out", "noise"):
        schedule = linear_schedule(own["timestep_map"])
        yield compare(file, f"{prefix}: timestep map", schedule.timesteps, own["timestep_map"], EXACT_GATE)
        for name in TABLES:
            if name in own:
                yield compare(file, f"{prefix}: {name}", getattr(schedule, name), own[name], TABLE_GATE)
        index, x, noise = tensor(own["index"]), tensor(own["x"]), tensor(own["noise"])
        if "model_timestep" in own:
            yield compare(
                file,
                f"{prefix}: model timestep",
                schedule.timesteps[own["index"]],
                own["model_timestep"],
                EXACT_GATE,
            )
        step = ancestral_step(
            schedule, index, x, tensor(own["model_out"]), noise, bool(own.get("clip", True))
        )
        for name in step._fields:
            if name in own:
                yield compare(file, f"{prefix}: {name}", getattr(step, name), own[name])
        if "q_sample" in own:
            yield compare(file, f"{prefix}: q_sample", q_sample(schedule, index, x, noise), own["q_sample"])


def _lowpass(file: NumberFile) -> Rows:
    for prefix, own in groups(file.arrays, "x", "up"):
        x = tensor(own["x"])
        phi = LowPass(_factor(prefix, x.shape[-2], own["down"].shape[-2] if "down" in own else None))
        yield compare(file, f"{prefix}: phi", phi(x), own["up"])
        if "down" in own:
            yield compare(file, f"{prefix}: down", phi.down(x), own["down"])
    for key in sorted(file.arrays):
        if f"{key}_index" in file.arrays:
            rows, columns = file.arrays[f"{key}_index"].astype(np.int64)
            named = re.search(r"n(\d+)", key)
            size = int(named[1]) if named else int(max(rows.max(), columns.max())) + 1
            dense = np.zeros((size, size))
            dense[rows, columns] = file.arrays[key]
            yield compare(file, f"{key}: matrix", matrices(size, _factor(key, size, None))[2], dense)


def _factor(name: str, size: int, small: int | None) -> int:
    named = re.search(r"_D(\d+)", name)
    if named:
        return int(named[1])
    return round(size / small) if small else 4


def _preprocessing(file: NumberFile) -> Rows:
    for key, wanted in sorted(file.arrays.items()):
        named = re.fullmatch(r"(.+)_out(\d+)", key)
        if named and f"{named[1]}_in" in file.arrays:
            got = prepare(file.arrays[f"{named[1]}_in"], int(named[2]))
            yield compare(file, f"{named[1]}: preprocessing", got.reshape(wanted.shape), wanted, UINT8_GATE)


def _ensemble(file: NumberFile) -> Rows:
    if not {"logits_target", "logits_synth"} <= set(file.arrays):
        return
    target, synth = file.arrays["logits_target"], file.arrays["logits_synth"]
    own = {"probs_target": softmax(target), "probs_synth": softmax(synth)}
    for key, wanted in sorted(file.arrays.items()):
        kind, _, mode = key.partition("_")
        if key in own:
            yield compare(file, key, own[key], wanted)
        elif kind == "score":
            yield compare(file, key, ensemble(target, synth, mode), wanted)
        elif kind == "pred":
            yield compare(file, key, ensemble(target, synth, mode).argmax(axis=1), wanted, EXACT_GATE)
        elif kind == "choice":
            yield compare(
                file, key, choice(own["probs_target"], own["probs_synth"], mode), wanted, EXACT_GATE
            )
