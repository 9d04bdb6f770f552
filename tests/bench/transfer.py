"""Throughput of the scene transfer: guidance in one call against two, batches against single images."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.diffusion.translation.denoiser import Denoiser
from diffadapt.diffusion.translation.inversion import Predictor, decode, guided
from diffadapt.diffusion.translation.levels import transfer_levels
from tests.bench.measure import DTYPES, extrapolate
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size
from tests.diffusionkit import WIDTH, tiny_controlnet, tiny_unet

STRENGTH = 0.9
BATCH = 4
PUBLISHED_SIDES = (512, 1024)
TINY_SIDES = (64, 128)


def transfer(size: Size, device: torch.device, precision: str) -> Report:
    """Decoding at strength 0.9 (18 steps of 20) with ControlNet and guidance; published: the architecture of
    Stable Diffusion 1.5 at 512 x 1024.

    The autoencoder and the encoding step are not timed. The gains are ratios of rates measured in turn.
    """
    published = size.name == "published"
    net, sides = _networks(published, device, precision), PUBLISHED_SIDES if published else TINY_SIDES
    levels = transfer_levels(TransferConfig(), STRENGTH).decode
    rates: dict[tuple[str, int], float] = {}
    for batch in (1, BATCH):
        bound = net.on(torch.rand(batch, 3, *sides, generator=torch.Generator().manual_seed(0)))
        for name, predict in (
            ("one call", bound.guided("target")),
            ("two calls", _two_calls(bound, net.guidance)),
        ):
            run = _run(predict, batch, sides, levels, net.schedule, device)
            run(1)  # compiled kernels and memory are there before the clock starts
            seconds, _ = extrapolate(run, *size.steps, len(levels), device, size.repeats)
            rates[name, batch] = batch / seconds
    metrics = [
        Metric(f"transfer: {name}, batch {batch}", rate, "images/s") for (name, batch), rate in rates.items()
    ]
    metrics += [
        Metric(
            f"transfer: gain of one call over two, batch {batch}",
            rates["one call", batch] / rates["two calls", batch],
            "x",
        )
        for batch in (1, BATCH)
    ]
    metrics.append(
        Metric(
            f"transfer: gain of batch {BATCH} over single images",
            rates["one call", BATCH] / rates["one call", 1],
            "x",
        )
    )
    conditions = [
        f"{sides[0]} x {sides[1]} pixels, {len(levels)} steps, {precision}, "
        + ("Stable Diffusion 1.5's architecture" if published else "the tiny pipeline of the tests")
    ]
    return Report("Transfer of scenes", metrics, conditions)


def _networks(published: bool, device: torch.device, precision: str) -> Denoiser:
    torch.manual_seed(0)
    if published:
        unet = UNet2DConditionModel(cross_attention_dim=768)
        control, width = ControlNetModel.from_unet(unet), 768
    else:
        unet = tiny_unet()
        control, width = tiny_controlnet(unet, 8), WIDTH
    for module in (unet, control):
        module.requires_grad_(False).eval().to(device)
        if precision in ("bf16", "fp16"):
            module.to(DTYPES[precision])
        if device.type == "cuda":
            module.to(memory_format=torch.channels_last)
    net = Denoiser(
        SimpleNamespace(unet=unet), control, Schedule.linear(), TransferConfig().guidance, 1.0, "negative"
    )
    net.remember("target", torch.randn(1, 77, width))
    net.remember("negative", torch.randn(1, 77, width))
    return net


def _two_calls(bound, scale: float) -> Predictor:
    positive, negative = bound.plain("target"), bound.plain("negative")
    return lambda x, t: guided(negative(x, t), positive(x, t), scale)


def _run(
    predict: Predictor,
    batch: int,
    sides: tuple[int, int],
    levels: tuple[int, ...],
    schedule: Schedule,
    device: torch.device,
):
    z = torch.randn(batch, 4, sides[0] // 8, sides[1] // 8, generator=torch.Generator().manual_seed(1)).to(
        device
    )

    def run(steps: int) -> torch.Tensor:
        with torch.inference_mode():
            return decode(z, lambda: torch.zeros_like(z), levels[:steps], schedule.alphas_cumprod, predict)

    return run
