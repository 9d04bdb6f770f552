"""The device changes nothing but speed: forwards within their gates, images within one grey level."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.noise import ItemNoise
from diffadapt.diffusion.projector import Projector
from tests.bench.networks import SMALL, make_adm

GATES = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}
"""Deviation of one forward from the CPU's float32, as a ratio of 2-norms."""
ALIGN = AlignConfig(respacing=20, start=8, batch_size=4)
SYNTH = SynthConfig(steps=8, batch_size=6)
SEEDS = [11, 22, 33, 44]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.cpu() - wanted).norm() / wanted.norm())


def levels(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("precision", GATES)
def test_one_forward_of_the_unconditional_network(device, precision):
    x, t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 494])
    wanted = UnconditionalNetwork(make_adm(SMALL, "cpu"))(x, t)
    network = UnconditionalNetwork(make_adm(SMALL, "cpu"), device=device, precision=precision)
    with torch.no_grad(), network.float32_mode():
        found = network(x.to(device), t.to(device))
    assert found.dtype == torch.float32
    assert relative(found, wanted) < GATES[precision]


@pytest.mark.parametrize("precision", GATES)
def test_the_gradient_through_the_unconditional_network(adm, device, images, precision):
    def gradient(network, x, t):
        x = x.clone().requires_grad_(True)
        with network.float32_mode():
            (g,) = torch.autograd.grad(network(x, t).square().mean() * 1024, x)
        return g.detach()

    t = torch.tensor([5, 100, 494, 999])
    wanted = gradient(adm(), images, t)
    found = gradient(adm(device, precision), images.to(device), t.to(device))
    assert torch.isfinite(found).all()
    assert relative(found, wanted) < 5 * GATES[precision]


@pytest.mark.parametrize("precision", GATES)
def test_one_forward_of_the_transformer(dit, device, precision):
    shape = (3, *dit()._latent_shape)
    x, t, y = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 400, 999]),
        torch.tensor([0, 1, 2]),
    )
    wanted = dit().transformer(x, t, y).sample
    generator = dit(device, precision)
    with torch.no_grad():
        found = generator.transformer(
            x.to(device, generator.dtype), t.to(device), y.to(device)
        ).sample.float()
    assert relative(found, wanted) < GATES[precision]


@pytest.mark.parametrize("guidance", ["dda", "dda-batch", "none"])
def test_projection_equals_the_cpus(adm, device, images, guidance):
    config = replace(ALIGN, guidance=guidance, coupled_batch=4)
    assert (
        levels(
            Projector(adm(device), config).project(images, SEEDS),
            Projector(adm(), config).project(images, SEEDS),
        )
        <= 1
    )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_synthesis_equals_the_cpus(dit, device, guidance):
    config = replace(SYNTH, guidance=guidance)
    labels, seeds = [0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12]
    found = torch.stack(
        [dit(device)._sample_batch(labels, seeds, config), dit()._sample_batch(labels, seeds, config)]
    )
    # Latents, not pixels: they are not clipped, so they are compared before rounding.
    assert float((found[0] - found[1]).abs().max() / found[1].abs().max()) < 1e-3


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_projections_within_a_level_on_average(adm, device, images, precision):
    exact = Projector(adm(device), ALIGN).project(images, SEEDS)
    found = Projector(adm(device, precision), ALIGN).project(images, SEEDS)
    assert float((found.int() - exact.int()).abs().float().mean()) < 1.0


@pytest.mark.parametrize("draws", [None, 6])
def test_prefetched_pinned_noise_equals_the_cpus(device, draws):
    ahead, plain = (
        ItemNoise(SEEDS, (3, 64, 64), device, draws=draws),
        ItemNoise(SEEDS, (3, 64, 64), draws=draws),
    )
    busy = torch.randn(2048, 2048, device=device)
    for _ in range(6):
        for _ in range(
            20
        ):  # the device is behind, so that a buffer given away too early would be overwritten
            busy = busy @ busy / 2048
        found = ahead.draw()
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), plain.draw())
    ahead.close()


def test_batch_size_changes_at_most_one_level(adm, device, images):
    whole = Projector(adm(device), ALIGN).project(images, SEEDS)
    pieces = Projector(adm(device), replace(ALIGN, batch_size=3)).project(images, SEEDS)
    assert levels(whole, pieces) <= 1
