"""Everything here is marked gpu and skipped without CUDA; networks are the tiny ones of the golden
numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sda"
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where there is no device."""
    absent = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _clean_device():
    yield
    if torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.empty_cache()


@pytest.fixture
def adm():
    """A function giving a fresh tiny ADM (32 pixels) as an unconditional network."""
    from diffadapt.diffusion.network import UnconditionalNetwork
    from diffadapt.models.importers.adm import adm_from_original, read_checkpoint

    def make(
        device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False
    ) -> UnconditionalNetwork:
        unet = adm_from_original(*read_checkpoint(GOLDEN / "adm_tiny_weights.safetensors"))
        return UnconditionalNetwork(unet, device=device, precision=precision, compile=compile)

    return make


@pytest.fixture
def dit():
    """A function giving a fresh tiny DiT as a generator of 4-channel latents (no autoencoder)."""
    import json

    from diffadapt.diffusion.generators.dit import Generator
    from diffadapt.diffusion.schedule import Schedule
    from diffadapt.models.importers.dit import dit_from_original, read_checkpoint

    def make(device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Generator:
        state, metadata = read_checkpoint(GOLDEN / "dit_tiny_weights.safetensors")
        transformer = dit_from_original(state, json.loads(metadata["config"]))
        return Generator(transformer, Schedule.linear(), device=device, precision=precision, compile=compile)

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Four smooth, different images (4, 3, 32, 32) in [-1, 1]."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)
