"""Every aligner mode and sampler on tiny random networks: 8-bit images of the right shape, one image one
result."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.diffusion.aligners.base import ALIGNERS
from diffadapt.diffusion.aligners.config import AlignConfig  # noqa: E402
from diffadapt.diffusion.generators.config import SynthConfig  # noqa: E402
from diffadapt.diffusion.generators.dit import load_generator  # noqa: E402
from diffadapt.diffusion.network import load_unconditional  # noqa: E402
from diffadapt.diffusion.projector import Projector  # noqa: E402
from tests.contract.tinyweights import adm_folder, dit_folder  # noqa: E402

MODES = get_args(get_type_hints(AlignConfig)["guidance"])
SAMPLERS = get_args(get_type_hints(SynthConfig)["sampler"])
COUPLED = ("dda-batch",)  # the norm is over the batch, as the authors' code has it: composition counts there
SEEDS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.set_num_threads(1)
    return load_unconditional(adm_folder(tmp_path_factory.mktemp("adm")))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    torch.set_num_threads(1)
    return load_generator(dit_folder(tmp_path_factory.mktemp("dit")))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def projector(network, mode: str, **changes) -> Projector:
    config = AlignConfig(guidance=mode, respacing=8, start=3, batch_size=4, coupled_batch=4)
    config = replace(config.at(300) if config.chooses else config, **changes)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    return Projector(network, config, "cpu", lambda x: x.mean((2, 3)) @ weight)


def apart(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def test_modes_and_samplers_are_the_known_ones():
    assert set(MODES) >= {"dda", "dda-batch", "gda", "none"} and set(SAMPLERS) >= {
        "ddpm",
        "ddim",
        "dpmsolver++",
    }


@pytest.mark.parametrize("mode", [m for m in MODES if not ALIGNERS.load(m).needs_student])
def test_every_aligner_mode(network, images, mode):
    out = projector(network, mode).project(images, SEEDS)
    assert out.dtype == torch.uint8 and out.shape == images.shape
    assert torch.equal(out, projector(network, mode).project(images, SEEDS))
    assert apart(out, projector(network, mode).project(images, [s + 1 for s in SEEDS])) > 1, (
        "the seed matters"
    )
    assert all(apart(out[0], other) > 1 for other in out[1:])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = projector(network, mode).project(images[order], [SEEDS[i] for i in order])
    assert apart(shuffled, out[order]) <= 1
    if mode not in COUPLED:
        assert apart(out, projector(network, mode, batch_size=3).project(images, SEEDS)) <= 1
        assert apart(out[1:2], projector(network, mode).project(images[1:2], SEEDS[1:2])) <= 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(generator, sampler, guidance):
    config = SynthConfig(sampler=sampler, steps=5, guidance=guidance, batch_size=4)
    labels = [0, 1, 2, 1]
    out = generator.sample(labels, SEEDS, config)
    assert out.dtype == torch.uint8 and out.shape == (4, 3, 32, 32)
    assert torch.equal(out, generator.sample(labels, SEEDS, config))
    assert apart(out[1], out[3]) > 1, "one class, two seeds"
    assert apart(out, generator.sample(labels[::-1], SEEDS[::-1], config).flip(0)) <= 1
    assert apart(out, generator.sample(labels, SEEDS, replace(config, batch_size=3))) <= 1
    assert apart(out[2:3], generator.sample(labels[2:3], SEEDS[2:3], config)) <= 1
    assert apart(out[:1], generator.sample([2], SEEDS[:1], config)) > 0, "one seed, two classes"
