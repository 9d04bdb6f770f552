"""Throughput of synthesis and guided alignment: images/s, share of the matrix-product rate, gain over the
published settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.generators.dit import Generator
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.projector import Projector
from diffadapt.diffusion.schedule import Schedule
from diffadapt.stages.batching import is_out_of_memory, release_memory
from tests.bench.measure import clock, extrapolate, matmul_rate, peak_gib, reset_peak
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size, count_operations, make_adm, make_dit, make_vae

SYNTHESIS_STEPS = 250
ALIGN_STEPS = 50
SHARE_TARGETS = {"synthesis": 0.50, "alignment": 0.40}
GAIN_TARGET = 4.0


@dataclass(frozen=True)
class Setting:
    """How the same work is run."""

    name: str
    precision: str
    batch: int
    compile: bool
    coupled: bool = False
    """Alignment with one norm over the batch, as the authors' code has it."""


@dataclass(frozen=True)
class Timing:
    """One setting measured."""

    images_per_second: float
    step_seconds: float
    batch: int
    warmup_seconds: float
    peak_gib: float


Run = Callable[[int], object]
"""Runs one batch with the given number of steps."""


def synthesis(size: Size, device: torch.device, precision: str) -> Report:
    """Class-conditional synthesis, guidance 1, 250 ancestral steps and the decoder; published:
    DiT-XL/2-256."""
    count = count_operations(size)

    def prepare(setting: Setting) -> Callable[[int], Run]:
        vae = make_vae(size, device)
        generator = Generator(
            make_dit(size, device),
            Schedule.linear(),
            vae,
            None,
            "",
            device,
            setting.precision,
            setting.compile,
        )

        def at(batch: int) -> Run:
            labels, seeds = [i % size.dit["num_embeds_ada_norm"] for i in range(batch)], list(range(batch))
            return lambda steps: generator.sample(labels, seeds, SynthConfig(steps=steps, batch_size=batch))

        return at

    work = SYNTHESIS_STEPS * count.dit + count.decode
    published = Setting(
        f"published settings: tf32, batch {size.published_batch}, eager", "tf32", size.published_batch, False
    )
    return _report(
        "synthesis",
        "Synthesis",
        size,
        device,
        precision,
        size.batch,
        SYNTHESIS_STEPS,
        work,
        prepare,
        published,
    )


def alignment(size: Size, device: torch.device, precision: str) -> Report:
    """Guided alignment, 50 of 100 steps with the input gradient; published: ADM-256."""
    count = count_operations(size)
    images = (
        torch.rand(
            size.align_batch,
            3,
            size.adm.image_size,
            size.adm.image_size,
            generator=torch.Generator().manual_seed(0),
        )
        * 2
        - 1
    )

    def prepare(setting: Setting) -> Callable[[int], Run]:
        network = UnconditionalNetwork(
            make_adm(size, device), device=device, precision=setting.precision, compile=setting.compile
        )
        mode = "dda-batch" if setting.coupled else "dda"

        def at(batch: int) -> Run:
            def run(steps: int) -> object:
                config = AlignConfig(
                    guidance=mode,
                    start=steps,
                    batch_size=batch,
                    coupled_batch=batch,
                    precision=setting.precision,
                )
                return Projector(network, config).project(images[:batch], list(range(batch)))

            return run

        return at

    work = ALIGN_STEPS * count.adm_guided
    batch = min(size.published_batch, size.align_batch)
    published = Setting(f"published settings: tf32, batch {batch}, eager", "tf32", batch, False, coupled=True)
    return _report(
        "alignment",
        "Guided alignment",
        size,
        device,
        precision,
        size.align_batch,
        ALIGN_STEPS,
        work,
        prepare,
        published,
    )


def _report(
    name: str,
    title: str,
    size: Size,
    device: torch.device,
    precision: str,
    batch: int,
    full: int,
    work: float,
    prepare: Callable[[Setting], Callable[[int], Run]],
    published: Setting,
) -> Report:
    cuda = device.type == "cuda"
    judged = cuda and size.name == "published"
    rate = matmul_rate(device, precision, size.matmul)
    ours = Setting(f"ours: {precision}, compiled" if cuda else f"ours: {precision}", precision, batch, cuda)
    stricter = Setting(
        f"published batch in {precision}, eager", precision, published.batch, False, published.coupled
    )
    reference, half, best = (_time(s, prepare, size, full, device) for s in (published, stricter, ours))
    share = best.images_per_second * work / rate
    metrics = [
        Metric(f"{name}: images/s, {ours.name}, batch {best.batch}", best.images_per_second, "images/s"),
        Metric(f"{name}: work", work / 1e12, "TFLOP an image"),
        Metric(f"{name}: achieved", best.images_per_second * work / 1e12, "TFLOP/s"),
        Metric(f"{name}: matrix product {size.matmul}, {precision}", rate / 1e12, "TFLOP/s"),
        Metric(
            f"{name}: share of the matrix-product rate", share, "", SHARE_TARGETS[name] if judged else None
        ),
        Metric(f"{name}: images/s, {published.name}", reference.images_per_second, "images/s"),
        Metric(f"{name}: images/s, {stricter.name}", half.images_per_second, "images/s"),
        Metric(
            f"{name}: gain over the published settings",
            best.images_per_second / reference.images_per_second,
            "x",
            GAIN_TARGET if judged else None,
        ),
        Metric(
            f"{name}: gain over the published batch in {precision}",
            best.images_per_second / half.images_per_second,
            "x",
        ),
        Metric(
            f"{name}: memory peak, ours",
            best.peak_gib,
            "GiB",
            note="tensors" if cuda else "resident peak of the process so far",
        ),
        Metric(f"{name}: first run (compilation, warm-up)", best.warmup_seconds, "s"),
    ]
    few, many = size.steps
    conditions = [
        (
            f"{size.name} architecture with random weights; {many} steps timed (less {few}: one step), scaled"
            f" to {full} steps; median of {size.repeats}"
        ),
        (
            "the published settings run in this code: no null half at guidance 1, frozen weights, low pass as"
            " matrix products"
        ),
    ]
    if not cuda:
        kind = (
            "CPU time of the one thread"
            if torch.get_num_threads() == 1
            else f"wall time of {torch.get_num_threads()} threads"
        )
        conditions.append(
            f"{kind}; a CPU has no TF32: there the published settings are fp32 at the authors' batch"
        )
    if not judged:
        conditions.append(
            "targets are set for one H200-class GPU at the published architectures and are not judged here"
        )
    return Report(title, metrics, conditions)


def _time(
    setting: Setting,
    prepare: Callable[[Setting], Callable[[int], Run]],
    size: Size,
    full: int,
    device: torch.device,
) -> Timing:
    """Measures one setting; an out-of-memory error halves its batch."""
    release_memory()
    reset_peak(device)
    at = prepare(setting)
    few, many = size.steps
    batch = setting.batch
    while True:
        run = at(batch)
        now = clock(device)
        start = now()
        try:
            run(few)
            break
        except Exception as error:
            if batch == 1 or not (is_out_of_memory(error) or is_out_of_memory(error.__cause__)):
                raise
            batch //= 2
        release_memory()
        reset_peak(device)
    warmup = now() - start
    total, step = extrapolate(run, few, many, full, device, size.repeats)
    return Timing(batch / total, step, batch, warmup, peak_gib(device))
