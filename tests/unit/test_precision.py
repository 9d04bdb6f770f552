"""What a precision left to the device means: fp32 in every digest and on a CPU, another on CUDA, and nothing
in a recipe whose figures stand beside published ones."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from diffadapt.api import precision as command
from diffadapt.api.precision import settled
from diffadapt.compute import precision as names
from diffadapt.compute.precision import autocast, float32_mode, precision_on
from diffadapt.core import recipes
from diffadapt.core.config import fields, is_dataclass, settle, strict_precision, to_dict, unsettled
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.tasks.classification.clip_features import ClipFeatures
from diffadapt.train.config import FitConfig
from tests.tiny import tiny_sda


def precisions(config, prefix=""):
    found = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            found |= precisions(value, f"{prefix}{f.name}.")
        elif f.name == "precision":
            found[prefix + f.name] = value
    return found


@pytest.mark.parametrize("config", [UdaConfig(), FitConfig(), TextToImageConfig()])
def test_what_no_device_decided_has_the_digests_it_had(config):
    before = "fp16" if isinstance(config, TextToImageConfig) else "fp32"
    assert config.precision == "auto"
    assert to_dict(config, identity_only=True) == to_dict(
        replace(config, precision=before), identity_only=True
    )
    assert to_dict(strict_precision(config))["precision"] == before
    assert settle(config, "cpu") is config


def test_identities_that_name_the_precision_state_it():
    assert ClipFeatures().identity() == {"precision": "fp32"}


def test_cuda_decides_what_a_recipe_leaves_open(monkeypatch):
    recipe = recipes.load("quickstart")
    monkeypatch.setattr(command, "_drivers_devices", lambda: 0)
    assert settled(recipe) is recipe
    on_cuda = settled(replace(recipe, execution=replace(recipe.execution, device="cuda", runner="local")))
    assert set(precisions(on_cuda).values()) == {"tf32"} and not unsettled(on_cuda)
    asked = replace(recipe, align=replace(recipe.align, precision="fp32"))
    kept = settle(asked, "cuda")
    assert kept.align.precision == "fp32" and kept.synth.precision == "tf32"
    assert settle(UdaConfig(), "cuda").precision == settle(TextToImageConfig(), "cuda").precision == "bf16"
    monkeypatch.setattr(command, "_drivers_devices", lambda: 1)
    monkeypatch.setattr(command, "_torch_finds_one", lambda: True)
    here = settled(replace(recipe, execution=replace(recipe.execution, runner="local")))
    assert here.align.precision == "tf32"
    assert (
        settled(replace(recipe, execution=replace(recipe.execution, device="cpu"))).align.precision == "auto"
    )


def test_digests_differ_on_cuda_and_nowhere_else():
    recipe = tiny_sda()
    config = to_dict(recipe, identity_only=True)
    assert to_dict(settle(recipe, "cpu"), identity_only=True) == config
    assert to_dict(settle(recipe, "cuda"), identity_only=True) != config


@pytest.mark.parametrize(
    "name",
    ["sda/imagenet_c/resnet50", "sda/imagenet_c/resnet50_code", "adapt_anything/office31/all",
     "adapt_anything/office31/amazon_webcam", "adapt_anything/cdtrans/office31", "zodi/cityscapes_acdc"],
)  # fmt: skip
def test_recipes_beside_published_figures_leave_nothing_open(name):
    assert not unsettled(recipes.load(name))


def test_auto_computes_in_float32():
    assert precision_on("cpu", "auto") == "fp32" == precision_on("cuda", "auto")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with float32_mode("auto"), autocast("cpu", "auto"):
            assert not torch.backends.cudnn.allow_tf32 and not torch.is_autocast_enabled("cpu")
        with float32_mode("tf32"):
            assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_fp16_on_a_cpu_is_float32_and_said_once(caplog):
    names._say_fallback.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with autocast("cpu", "fp16"):
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert sum("fp16" in r.getMessage() for r in caplog.records) == 1
    assert precision_on("cuda", "fp16") == "fp16" and precision_on("cpu", "bf16") == "bf16"
