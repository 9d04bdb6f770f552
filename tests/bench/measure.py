"""Clocks, the device's matrix-product rate, floating-point operations of a network, and memory peaks."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffadapt.compute.precision import float32_mode

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def clock(device: torch.device) -> Callable[[], float]:
    """Wall time; for one thread on a CPU its CPU time, which other programs on the machine do not
    lengthen."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The median time (see :func:`clock`) of ``work`` with all that it queued. Host work counts: users wait
    for it too."""
    now, times = clock(device), []
    for _ in range(repeats):
        synchronize(device)
        start = now()
        work()
        synchronize(device)
        times.append(now() - start)
    return statistics.median(times)


def matmul_rate(device: torch.device, precision: str, size: int, repeats: int = 5) -> float:
    """The best rate in FLOP/s of a square matrix product in ``precision``; 2 n^3 operations each."""
    a = torch.randn(size, size, device=device).to(DTYPES[precision])
    b = torch.randn(size, size, device=device).to(DTYPES[precision])
    inner = 20 if device.type == "cuda" else 1
    best = float("inf")
    with torch.no_grad(), float32_mode("tf32" if precision == "tf32" else "fp32"):
        for _ in range(3):
            a @ b
        for _ in range(repeats):
            best = min(best, _products(a, b, inner, device))
    return 2.0 * size**3 / best


def _products(a: torch.Tensor, b: torch.Tensor, count: int, device: torch.device) -> float:
    """Seconds of one product; by CUDA events where there are any, so that launches do not count."""
    if device.type != "cuda":
        now = clock(device)
        start = now()
        for _ in range(count):
            a @ b
        return (now() - start) / count
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(count):
        a @ b
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / count


def flops(work: Callable[[], object]) -> float:
    """Floating-point operations of ``work`` (1 multiply-add = 2), products and convolutions; meta tensors
    will do."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """GiB: on CUDA the most that tensors held since :func:`reset_peak`, else this process's resident peak so
    far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def extrapolate(
    run: Callable[[int], object], few: int, many: int, full: int, device: torch.device, repeats: int
) -> tuple[float, float]:
    """Seconds of ``run(full)`` and of one step, from ``run(few)`` and ``run(many)``; all that is not a step
    counts once."""
    short, long = seconds(lambda: run(few), device, repeats), seconds(lambda: run(many), device, repeats)
    step = (long - short) / (many - few)
    if step <= 0:  # a disturbed clock: without the difference, everything is taken to scale with the steps
        return long * full / many, long / many
    return long + step * (full - many), step
