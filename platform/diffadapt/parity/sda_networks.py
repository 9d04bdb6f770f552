"""Parity of the diffusion networks and of the loops that run them (ADM with structural guidance, DiT
sampling).

What a file does not say (respacing, start level, batch, low-pass factor, scale, norm) is read off its shapes
or fitted to its first step, which leaves all further steps to be checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from diffadapt.diffusion.guidance import GuidedSteps, Trace, guided_loop
from diffadapt.diffusion.lowpass import LowPass
from diffadapt.diffusion.projector import to_uint8
from diffadapt.diffusion.samplers import sample
from diffadapt.diffusion.schedule import Schedule
from diffadapt.parity.check import EXACT_GATE, UINT8_GATE, NumberFile, ParityRow, compare, groups

FACTORS = (1, 2, 3, 4, 6, 8, 16, 32)
"""Low-pass factors that are tried when a file does not name its own."""

Rows = Iterator[ParityRow]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def linear_schedule(timestep_map: np.ndarray) -> Schedule:
    """The linear schedule over as many training steps as the map's last entry says, thinned to the map's
    length."""
    return Schedule.linear(int(timestep_map.max()) + 1).respace(len(timestep_map))


def _is_adm(file: NumberFile) -> bool:
    return "input_blocks.0.0.weight" in file.arrays and "out.2.weight" in file.arrays


def _is_dit(file: NumberFile) -> bool:
    return "x_embedder.proj.weight" in file.arrays and "final_layer.linear.weight" in file.arrays


def _state(file: NumberFile) -> dict[str, torch.Tensor]:
    return {k: tensor(v).float() for k, v in file.arrays.items()}


def _adm(file: NumberFile):
    """(state, configuration, imported network) of an ADM weights file."""
    from diffadapt.models.adm import ADMConfig, infer_config
    from diffadapt.models.importers.adm import adm_from_original

    state = _state(file)
    text = file.metadata.get("config")
    config = (
        ADMConfig.from_dict(json.loads(text))
        if text
        else infer_config({k: tuple(v.shape) for k, v in state.items()})
    )
    return state, config, adm_from_original(state, config)


def _dit(file: NumberFile):
    """(state, configuration, imported network) of a DiT weights file."""
    from diffadapt.models.importers.dit import dit_from_original

    state = _state(file)
    config = json.loads(file.metadata.get("config", "{}"))
    return state, config, dit_from_original(state, config)


def weights(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """Imported networks against the original graphs, written independently."""
    if _is_adm(file):
        from diffadapt.models.importers.adm import self_check

        state, config, unet = _adm(file)
        yield compare(
            file,
            "adm import against the original graph",
            np.array(self_check(unet, state, config)),
            np.array(0.0),
        )
    if _is_dit(file):
        from diffadapt.models.importers.dit_reference import dit_forward

        state, config, model = _dit(file)
        side, classes = model.config.sample_size, model.config.num_embeds_ada_norm
        x = torch.randn(3, model.config.in_channels, side, side, generator=torch.Generator().manual_seed(0))
        t, y = torch.tensor([0, 499, 999]), torch.tensor([0, classes - 1, classes])
        heads = config.get("num_heads") or model.config.num_attention_heads
        with torch.no_grad():
            got, wanted = model(x, t, y).sample, dit_forward(state, x, t, y, heads)
        yield compare(file, "dit import against the original graph", got, wanted)


def _best(
    file: NumberFile,
    candidates: Sequence[NumberFile],
    make: Callable[[NumberFile], list[ParityRow]],
    what: str,
) -> Rows:
    """The rows of the weights file that fits best: a folder may hold several networks."""
    if not candidates:
        yield ParityRow(
            file.name, what, np.nan, np.nan, False, "no weights file in the same folder fits these numbers"
        )
        return
    results = [[_with_note(r, f"with {c.name}") for r in make(c)] for c in candidates]
    yield from min(
        results, key=lambda rows: max(np.inf if np.isnan(r.max_deviation) else r.max_deviation for r in rows)
    )


def _with_note(row: ParityRow, note: str) -> ParityRow:
    return ParityRow(row.file, row.check, row.max_deviation, row.gate, row.ok, f"{row.note} {note}".strip())


def _fits(candidate: NumberFile, channels: int, out_channels: int | None = None) -> bool:
    arrays = candidate.arrays
    own = arrays["input_blocks.0.0.weight"].shape[1], arrays["out.2.weight"].shape[0]
    return own[0] == channels and (out_channels is None or own[1] == out_channels)


def forward(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """Groups (x, t, out) of ADM, with its input gradient, and (x, t, y, out) of DiT."""
    for prefix, own in groups(file.arrays, "x", "t", "out"):
        if "y" in own:
            dits = [
                s
                for s in siblings
                if _is_dit(s) and s.arrays["x_embedder.proj.weight"].shape[1] == own["x"].shape[1]
            ]
            yield from _best(
                file,
                dits,
                lambda c, p=prefix, o=own: _dit_forward_rows(file, p, o, c),
                f"{prefix}: dit output",
            )
        else:
            adms = [s for s in siblings if _is_adm(s) and _fits(s, own["x"].shape[1], own["out"].shape[1])]
            yield from _best(
                file,
                adms,
                lambda c, p=prefix, o=own: _adm_forward_rows(file, p, o, c),
                f"{prefix}: adm output",
            )


def _dit_forward_rows(file: NumberFile, prefix: str, own: dict, weights: NumberFile) -> list[ParityRow]:
    _, _, model = _dit(weights)
    with torch.no_grad():
        out = model(tensor(own["x"]), tensor(own["t"]), tensor(own["y"])).sample
    return [compare(file, f"{prefix}: dit output", out, own["out"])]


def _adm_forward_rows(file: NumberFile, prefix: str, own: dict, weights: NumberFile) -> list[ParityRow]:
    _, _, unet = _adm(weights)
    x = tensor(own["x"]).requires_grad_(True)
    out = unet(x, tensor(own["t"])).sample
    rows = [compare(file, f"{prefix}: adm output", out.detach(), own["out"])]
    if "vjp" in own and "vjp_cotangent" in own:
        (gradient,) = torch.autograd.grad((out * tensor(own["vjp_cotangent"])).sum(), x)
        rows.append(compare(file, f"{prefix}: adm input gradient", gradient, own["vjp"]))
    return rows


def guided(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """Groups with the samples of a structurally guided loop."""
    inputs = list(groups(file.arrays, "x0", "q_noise", "step_noise", "timestep_map"))
    results = [g for g in groups(file.arrays, "samples") if {"norm", "uint8"} & set(g[1])]
    for prefix, own in inputs:
        schedule = linear_schedule(own["timestep_map"])
        yield compare(file, f"{prefix}: timestep map", schedule.timesteps, own["timestep_map"], EXACT_GATE)
        if "alphas_cumprod" in own:
            yield compare(
                file, f"{prefix}: alphas_cumprod", schedule.alphas_cumprod, own["alphas_cumprod"], 1e-10
            )
    for prefix, own in results:
        # A variant without inputs of its own uses those of the group whose name begins its name.
        sources = (
            [i for p, i in inputs if p == prefix]
            or [i for p, i in inputs if prefix.startswith(p)]
            or [i for _, i in inputs]
        )
        if not sources:
            yield ParityRow(
                file.name, f"{prefix}: guided loop", np.nan, np.nan, False, "its inputs are not in the file"
            )
            continue
        merged = {**sources[0], **own}
        adms = [s for s in siblings if _is_adm(s) and _fits(s, merged["x0"].shape[1])]
        yield from _best(
            file, adms, lambda c, p=prefix, m=merged: _guided_rows(file, p, m, c), f"{prefix}: guided loop"
        )


def _guided_rows(file: NumberFile, prefix: str, own: dict, weights: NumberFile) -> list[ParityRow]:
    _, _, unet = _adm(weights)
    wanted = {k: tensor(v) for k, v in own.items()}
    start, batch = wanted["samples"].shape[:2]
    schedule = linear_schedule(own["timestep_map"])
    mode = "image" if "norm" in own and own["norm"].ndim == 2 else "batch"

    def run(factor: int, scale: float, steps: int = start) -> Trace:
        trace = Trace()
        guided_loop(
            lambda x, t: unet(x, t).sample,
            wanted["x0"][:batch],
            wanted["q_noise"][:batch],
            list(wanted["step_noise"][:, :batch]),
            schedule,
            GuidedSteps(start, scale, LowPass(factor), mode, stop=start - steps),
            trace,
        )
        return trace

    factor, scale = _fit(run, wanted)
    trace = run(factor, scale)
    note = f"D {factor}, scale {scale:.6g}, {mode} norm"
    rows = [
        compare(
            file, f"{prefix}: samples of {start} steps", torch.stack(trace.samples), own["samples"], note=note
        )
    ]
    ends = {"norm_grad_first_last": trace.gradients, "pred_xstart_first_last": trace.pred_xstarts}
    for name, values in ends.items():
        if name in own:
            rows.append(compare(file, f"{prefix}: {name}", torch.stack([values[0], values[-1]]), own[name]))
    if "norm" in own:
        rows.append(compare(file, f"{prefix}: norm", torch.stack(trace.norms), own["norm"]))
    if "uint8" in own:
        rows.append(compare(file, f"{prefix}: uint8", to_uint8(trace.samples[-1]), own["uint8"], UINT8_GATE))
    return rows


def _fit(run: Callable[..., Trace], wanted: dict[str, torch.Tensor]) -> tuple[int, float]:
    """The low-pass factor and guidance scale of the first step: they are not in the file.

    The factor is the one whose first distance is nearest; the scale is the least-squares fit of the first
    step's pull, taken as a round number (or 6 / sqrt(10)) when it is that close.
    """
    side = min(wanted["x0"].shape[-2:])
    factor = 4
    if "norm" in wanted:
        near = {
            d: float((run(d, 0.0, 1).norms[0] - wanted["norm"][0]).abs().max()) for d in FACTORS if d <= side
        }
        factor = min(near, key=near.__getitem__)
    first = run(factor, 0.0, 1)
    gradient = first.gradients[0].double()
    pull = (first.samples[0].double() - wanted["samples"][0].double()) * gradient
    scale = float(pull.sum() / gradient.square().sum().clamp(min=1e-30))
    whole = round(scale, 2) + 0.0  # never -0.0: which sign a scale of zero has depends on the processor
    return factor, next((v for v in (whole, 6 / 10**0.5) if abs(v - scale) < 1e-3), scale)


def dit_loop(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """Groups with the samples of DiT's ancestral loop."""
    for prefix, own in groups(file.arrays, "z", "y", "step_noise", "timestep_map", "samples"):
        channels = own["z"].shape[1]
        dits = [s for s in siblings if _is_dit(s) and s.arrays["x_embedder.proj.weight"].shape[1] == channels]
        yield from _best(
            file, dits, lambda c, p=prefix, o=own: _dit_loop_rows(file, p, o, c), f"{prefix}: dit loop"
        )


def _dit_loop_rows(file: NumberFile, prefix: str, own: dict, weights: NumberFile) -> list[ParityRow]:
    _, _, model = _dit(weights)
    schedule, labels = linear_schedule(own["timestep_map"]), tensor(own["y"])
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return model(x, t, labels).sample

    clip = bool(own["clip"]) if "clip" in own else False
    last = sample(network, tensor(own["z"]), schedule, noise=list(tensor(own["step_noise"])), clip=clip)
    return [
        compare(file, f"{prefix}: timestep map", schedule.timesteps, own["timestep_map"], EXACT_GATE),
        compare(
            file,
            f"{prefix}: dit samples of {len(seen)} steps",
            torch.stack([*seen[1:], last]),
            own["samples"],
        ),
    ]
