"""The one training loop: every classifier and diffusion model of the project is trained by it.

Exact resume needs only the step, the module, the optimiser and the EMA, because nothing else has state:
batches are a function of (seed, step, rank) and torch's generators are re-seeded from (seed, step, rank,
micro) before each forward pass.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffadapt.compute.compiling import channels_last, fixed_shapes
from diffadapt.compute.precision import autocast, float32_mode, precision_on
from diffadapt.compute.progress import Pass
from diffadapt.core.errors import ResourceError, TrainingError
from diffadapt.core.identity import digest
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.optim import fuse
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.scalars import LateScalars, fetch_every

LossFn = Callable[..., Mapping[str, torch.Tensor]]
BatchFn = Callable[[int, int], Any]
MAX_SKIPPED = 25
"""Consecutive steps that fp16 loss scaling may skip before the run counts as diverged."""


@dataclass(frozen=True)
class Optimisation:
    """How weights are updated. ``optimizer`` and ``ema`` must hold tensors on the reporter's device: move the
    module there before building them. On resume, settings of the optimiser's groups are those given here, its
    state the checkpoint's."""

    optimizer: torch.optim.Optimizer
    lr_at: Callable[[int], float]
    """The rate of a step, times each parameter group's ``lr_scale``."""
    total_steps: int
    ema: Ema | None = None
    precision: str = "fp32"
    clip_norm: float | None = None
    accumulate: int = 1
    """Parts of a batch."""
    seed: int = 0
    checkpoint_every: int = 200
    fetch_every: int | None = None
    """Steps after which their numbers are fetched from the device, and NaN is found; None: each on a CPU, 20
    on CUDA. Every step is reported nevertheless. Where a step depends on them (fp16, ascending passes) they
    are fetched at once."""
    passes: Sequence[Pass] = ()
    """Each step runs them in order on one batch (several updates a step, or SAM)."""
    before_step: Callable[[int], None] | None = None
    idle: Callable[[int], bool] | None = None
    """Asked after ``before_step``, with the same answer on every rank: steps of which nothing is made but
    their number."""


def run_loop(
    module: nn.Module,
    loss_fn: LossFn,
    batch_fn: BatchFn,
    how: Optimisation,
    run: TrainingRun,
) -> dict[str, float]:
    """Train ``module`` in place for ``how.total_steps`` optimiser steps, going on from the newest checkpoint
    if there is one.

    ``batch_fn(step, micro)`` gives the batch of step 0..total-1 and accumulation part 0..accumulate-1 on this
    rank; it must not depend on earlier calls. ``loss_fn(module, batch, step)`` calls the (possibly wrapped)
    module itself and returns scalar tensors, ``loss`` among them; all are averaged over parts and ranks and
    reported. With ``how.passes``, ``loss_fn(module, batch, step, pass)`` is given which; ``loss`` is that of
    the first pass that updates, the others report ``loss_<pass>``. Rank 0 writes checkpoints, which every
    rank must be able to read.

    On CUDA convolutions lie channels last meanwhile, and optimisers are fused.

    Returns the last step's scalars with ``steps`` and ``resumed_from``. Raises TrainingError if the loss, the
    gradient or a weight becomes NaN or infinite (no checkpoint has any of it), ResourceError if the device's
    memory is too small, or if ranks resume from different steps.
    """
    reporter, checkpoints, until = run.reporter, run.checkpoints, run.until
    optimizer, ema, passes, total_steps = how.optimizer, how.ema, how.passes, how.total_steps
    precision, accumulate = precision_on(reporter.device, how.precision), how.accumulate
    wrapped = reporter.wrap(channels_last(module, reporter.device))
    fuse(optimizer)
    scaler = torch.amp.GradScaler(reporter.device.type, enabled=precision == "fp16")
    start, scalars = _resume(module, optimizer, ema, scaler, checkpoints, reporter)
    last_saved = start
    main = next((i for i, p in enumerate(passes) if not p.ascend), 0)
    module.train()
    skipped = 0
    end = total_steps if until is None else min(until, total_steps)
    every = fetch_every(
        how.fetch_every, reporter.device, each=precision == "fp16" or any(p.ascend for p in passes)
    )

    def check(name: str, value: float, step: int) -> None:
        if name.startswith("loss") or name == "grad_norm":
            _demand_finite("loss" if name != "grad_norm" else "gradient", value, step, last_saved)

    late_scalars = LateScalars(
        reporter, check, lambda finished, scalars: reporter.report(finished, total_steps, scalars)
    )

    def train(step: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """One step; its scalars, and those that are to be fetched."""
        nonlocal skipped
        began = time.perf_counter()
        rate = how.lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        ascended: list[tuple[torch.Tensor, torch.Tensor]] = []
        scalars: dict[str, float] = {}
        late: dict[str, torch.Tensor] = {}
        norm = 0.0
        for index, current in enumerate(passes or (Pass(),)):
            optimizer.zero_grad(set_to_none=True)
            parts = []
            for micro in range(accumulate):
                batch = batch_fn(step, micro)
                torch.manual_seed(step_seed(how.seed, step, reporter.rank, micro, index))
                with _sync(wrapped, micro == accumulate - 1):
                    with autocast(reporter.device, precision):
                        losses = loss_fn(wrapped, batch, step, *([current] if passes else []))
                    scaler.scale(losses["loss"] / accumulate).backward()
                parts.append({k: v.detach().float().reshape(()) for k, v in losses.items()})
            name = "loss" if index == main else f"loss_{current.name}"
            if every == 1:
                found = reporter.all_reduce_mean(_fetched(_mean(parts)))
                _demand_finite("loss", found["loss"], step, last_saved)
                scalars.update({name if k == "loss" else k: v for k, v in found.items()})
            else:
                late.update({name if k == "loss" else k: v for k, v in _mean(parts).items()})
            scaler.unscale_(optimizer)
            _only(optimizer, current.groups)
            length = _clip(optimizer, None if current.ascend else how.clip_norm)
            if every > 1:
                late["grad_norm"] = length + 0.0 * late.get("grad_norm", 0.0)  # NaN of an earlier pass stays
                scaler.step(optimizer)
                continue
            norm = float(length)
            if precision == "fp16" and not math.isfinite(norm):
                skipped += 1
                if skipped > MAX_SKIPPED:
                    _demand_finite("gradient", norm, step, last_saved)
            else:
                skipped = 0
                _demand_finite("gradient", norm, step, last_saved)
            if current.ascend:
                ascended = [] if skipped else ascend(optimizer, current.ascend, norm)
            else:
                restore(ascended)
                ascended = []
                scaler.step(optimizer)
            scaler.update()
        if ema is not None and not skipped:
            ema.update(module)
        scalars.update(lr=rate, step_seconds=time.perf_counter() - began)
        if every == 1 and math.isfinite(norm):
            scalars["grad_norm"] = norm
        return scalars, late

    with _keep_rng(), float32_mode(precision), fixed_shapes(reporter.device), _memory():
        for step in range(start, end):
            if how.before_step is not None:
                how.before_step(step)
            idle = how.idle is not None and how.idle(step)
            late: dict[str, torch.Tensor] = {}
            if idle:
                late_scalars.fetch()  # what is reported again has to be known
            else:
                scalars, late = train(step)
            finished, before = step + 1, dict(scalars)
            if run.on_step is not None:
                run.on_step(finished, scalars)
            if not idle or finished == total_steps or scalars != before:
                late_scalars.add(finished, scalars, late)
            due = checkpoints is not None and (finished % how.checkpoint_every == 0 or finished == end)
            if finished % every == 0 or finished == end or due:
                late_scalars.fetch()
            if checkpoints is not None and due:
                _demand_finite_weights(module, step, last_saved)
                if reporter.rank == 0:
                    checkpoints.save(finished, _state(finished, module, optimizer, ema, scaler, scalars))
                reporter.barrier()
                last_saved = finished
    if reporter.device.type == "cuda":
        module.to(memory_format=torch.contiguous_format)  # as it came, and as files keep it
    return {**scalars, "steps": float(max(start, end)), "resumed_from": float(start)}


def step_seed(seed: int, step: int, rank: int, micro: int, index: int = 0) -> int:
    """A 60-bit seed for one forward pass (the ``index``-th of its step) of one rank."""
    return int(digest(["train", seed, step, rank, micro, *([index] if index else [])], 15), 16)


@torch.no_grad()
def ascend(
    optimizer: torch.optim.Optimizer, radius: float, norm: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Move every weight that has a gradient g by radius g / ||g||; returns (weight, movement) for
    :func:`restore`."""
    moved = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                e = p.grad * (radius / (norm + 1e-12))
                p.add_(e)
                moved.append((p, e))
    return moved


@torch.no_grad()
def restore(moved: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Undo :func:`ascend`."""
    for p, e in moved:
        p.sub_(e)


def _only(optimizer: torch.optim.Optimizer, groups: Sequence[str] | None) -> None:
    """Drop the gradients of other groups than the named: an optimiser leaves weights without a gradient
    alone."""
    for group in optimizer.param_groups:
        if groups is not None and group["name"] not in groups:
            for p in group["params"]:
                p.grad = None


def _state(
    step: int, module: nn.Module, optimizer: Any, ema: Ema | None, scaler: Any, scalars: dict
) -> dict[str, Any]:
    return {
        "step": step,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict() if ema is not None else None,
        "scaler": scaler.state_dict(),
        "scalars": {k: float(v) for k, v in scalars.items()},
    }


def _resume(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    scaler: Any,
    checkpoints: Checkpoints | None,
    reporter: Reporter,
) -> tuple[int, dict[str, float]]:
    state = checkpoints.latest() if checkpoints is not None else None
    start = int(state["step"]) if state else 0
    if reporter.world_size > 1 and reporter.all_reduce_mean({"step": float(start)})["step"] != start:
        where = checkpoints.location if checkpoints is not None else "memory"
        raise TrainingError(
            f"The workers found different checkpoints in {where}; put the run folder on storage that all of"
            " them share."
        )
    if state is None:
        return 0, {}
    try:
        module.load_state_dict(state["module"])
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for group, own in zip(state["optimizer"]["param_groups"], settings, strict=True):
            group.update(
                {k: own[k] for k in ("fused", "foreach") if k in own}
            )  # decides where its state lies
        optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)
        if ema is not None:
            ema.load_state_dict(state["ema"])
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(
            f"The checkpoint of step {start} belongs to another model or optimiser"
            f" ({str(error).splitlines()[0]}); delete it or use another run folder."
        ) from error
    if scaler.is_enabled() and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return start, dict(state["scalars"])


def _sync(wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if last or not hasattr(wrapped, "no_sync") else wrapped.no_sync()


def _mean(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = list(parts[0])
    values = torch.stack([torch.stack([p[n] for n in names]) for p in parts]).mean(0)
    return dict(zip(names, values.unbind(), strict=True))


def _fetched(values: dict[str, torch.Tensor]) -> dict[str, float]:
    # One transfer for all scalars: each .item() would wait for the device again.
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _clip(optimizer: torch.optim.Optimizer, clip_norm: float | None) -> torch.Tensor:
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if clip_norm is None:
        return torch.nn.utils.get_total_norm([p.grad for p in params])
    return torch.nn.utils.clip_grad_norm_(params, clip_norm)


def _demand_finite(what: str, value: float, step: int, last_saved: int) -> None:
    if not math.isfinite(value):
        kept = (
            f"the checkpoint of step {last_saved} is kept" if last_saved else "no checkpoint had been written"
        )
        raise TrainingError(
            f"Training stopped at step {step + 1} because the {what} became {value}; {kept}; "
            "lower the learning rate, clip the gradient or use fp32."
        )


@torch.no_grad()
def _demand_finite_weights(module: nn.Module, step: int, last_saved: int) -> None:
    flags = [torch.isfinite(p).all() for p in module.parameters()]
    if flags and not bool(torch.stack(flags).all()):
        _demand_finite("weights", math.nan, step, last_saved)


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Say in a sentence that the device is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "The device ran out of memory in a training step: lower the batch size, use precision bf16, or"
            " spread the batch over more workers; checkpoints already written are kept."
        ) from error


@contextlib.contextmanager
def _keep_rng() -> Iterator[None]:
    """Leave the caller's torch generators as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield
