"""Compilation and out-of-memory handling change nothing in the result."""

from __future__ import annotations

import pytest
import torch

from diffadapt.core.errors import ResourceError
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.projector import Projector
from diffadapt.stages.batching import Batcher, release_memory


def levels(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("guidance", ["dda", "none"])
def test_a_compiled_network_aligns_as_the_eager_one(adm, device, images, guidance):
    config = AlignConfig(respacing=20, start=4, batch_size=4, guidance=guidance)
    eager = Projector(adm(device), config).project(images, [1, 2, 3, 4])
    compiled = Projector(adm(device, compile=True), config).project(images, [1, 2, 3, 4])
    assert levels(eager, compiled) <= 1


def test_a_compiled_generator_samples_as_the_eager_one(dit, device):
    config, labels, seeds = SynthConfig(steps=4, batch_size=3), [0, 1, 2], [5, 6, 7]
    eager, compiled = (dit(device, compile=c)._sample_batch(labels, seeds, config) for c in (False, True))
    assert float((eager - compiled).abs().max() / eager.abs().max()) < 1e-3


def _needed(network, device, batch: int) -> int:
    """Bytes that a guided step over ``batch`` images takes beside the weights."""
    release_memory()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    images = torch.zeros(batch, 3, 32, 32)
    Projector(network, AlignConfig(respacing=20, start=1, batch_size=batch)).project(
        images, list(range(batch))
    )
    return torch.cuda.max_memory_allocated(device) - before


def _occupy(device: torch.device, leave: int) -> torch.Tensor:
    """A block of device memory that leaves ``leave`` bytes free."""
    release_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return torch.empty(max(1, free - leave), dtype=torch.uint8, device=device)


def test_out_of_memory_halves_the_batch_and_nothing_is_lost(adm, device):
    batch = 512
    network = adm(device)
    needed = _needed(network, device, batch)
    assert needed > 128 * 2**20, "the batch must be large enough for the test to mean something"
    items = list(range(batch))
    pictures = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    projector = Projector(network, AlignConfig(respacing=20, start=1, batch_size=batch))

    def process(part):
        return list(projector.project(pictures[list(part)], list(part)))

    free = Batcher(batch)
    wanted, _ = free.run(items, [str(i) for i in items], process)
    assert free.batch_size == batch
    taken = _occupy(device, needed * 6 // 10)
    tight = Batcher(batch)
    try:
        found, failures = tight.run(items, [str(i) for i in items], process)
    finally:
        del taken
        release_memory()
    assert 1 <= tight.batch_size <= batch // 2
    assert not failures and [i for i, _ in found] == items
    assert levels(torch.stack([r for _, r in found]), torch.stack([r for _, r in wanted])) <= 1


def test_when_not_even_one_image_fits_the_error_says_what_to_do(device):
    def process(part):
        total = torch.cuda.get_device_properties(device).total_memory
        return [torch.empty(2 * total, dtype=torch.uint8, device=device) for _ in part]

    with pytest.raises(ResourceError, match="does not fit into the device's memory"):
        Batcher(4).run([0, 1, 2, 3], list("abcd"), process)
