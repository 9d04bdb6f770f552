"""Compiled networks are shown one shape; what fills a batch changes nothing of the others."""

from __future__ import annotations

import logging

import pytest
import torch

from diffadapt.compute import compiling
from diffadapt.compute.compiling import OneShape, channels_last, filled, filled_tensor, wants_compilation
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.diffusion.network import UnconditionalNetwork
from diffadapt.diffusion.projector import Projector
from tests.bench.networks import TINY, make_adm


def test_a_last_batch_is_filled_and_one_that_failed_is_forgotten():
    shape = OneShape(True)
    sizes = []
    for count in (2, 4, 3, 1):
        with shape.padding(count) as copies:
            sizes.append(count + copies)
    assert sizes == [2, 4, 4, 4]
    with shape.padding(1, "other size") as copies:
        assert copies == 0
    with pytest.raises(RuntimeError), shape.padding(4):
        raise RuntimeError("out of memory")
    with shape.padding(2) as copies:  # half of it: no more than that is tried again
        assert copies == 0
    with OneShape(False).padding(3) as copies:
        assert copies == 0
    assert filled("ab", 2) == ["a", "b", "a", "a"]
    assert filled_tensor(torch.arange(3)[:, None], 2).flatten().tolist() == [0, 1, 2, 0, 0]


def test_projections_of_a_compiled_network_keep_one_shape_and_their_pixels(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **kwargs: module)
    config = AlignConfig(respacing=20, start=2, batch_size=3)
    images = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    plain = Projector(UnconditionalNetwork(make_adm(TINY, "cpu")), config).project(images, range(5))
    shapes = []
    net = UnconditionalNetwork(make_adm(TINY, "cpu"), compile=True)
    net.unet.conv_in.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape[0]))
    found = Projector(net, config).project(images, range(5))
    assert set(shapes) == {3} and found.shape == plain.shape
    assert int((found.int() - plain.int()).abs().max()) <= 1


def test_compilation_is_for_cuda_and_only_with_what_it_needs(monkeypatch, caplog):
    assert TextToImageConfig().compile is None and AlignConfig().compile is None
    assert not wants_compilation(None, "cpu") and wants_compilation(True, "cpu")
    monkeypatch.setattr(compiling, "_lacking", lambda: "")
    assert wants_compilation(None, "cuda") and not wants_compilation(False, "cuda")
    monkeypatch.setattr(compiling, "_lacking", lambda: "a C compiler")
    compiling._say_lacking.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not wants_compilation(None, "cuda") and not wants_compilation(None, "cuda:1")
    assert [r.getMessage() for r in caplog.records] == [
        "Networks are not compiled, because torch.compile lacks a C compiler: install it for speed."
    ]


def test_on_a_cpu_weights_lie_as_they_did():
    net = torch.nn.Conv2d(3, 4, 3)
    assert channels_last(net, "cpu") is net and net.weight.is_contiguous()
