"""Unconditional networks from folders: layouts, schedules, space-to-depth, precision, and what is refused."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel  # noqa: E402

from diffadapt.core.errors import WeightsError  # noqa: E402
from diffadapt.diffusion.network import UnconditionalNetwork, load_unconditional  # noqa: E402
from diffadapt.diffusion.schedule import Schedule  # noqa: E402


def small_unet(channels: int = 1, out: int | None = None, size: int = 16) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=out or channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )


def test_a_network_at_the_root_with_its_scheduler_beside_it(tmp_path):
    small_unet().save_pretrained(tmp_path)
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction").save_config(tmp_path)
    network = load_unconditional(str(tmp_path))
    wanted = Schedule.from_scheduler_config({"beta_schedule": "squaredcos_cap_v2"})
    assert network.schedule.prediction_type == "v_prediction"
    assert np.array_equal(network.schedule.alphas_cumprod, wanted.alphas_cumprod)
    assert (network.channels, network.image_size, network.multiple) == (1, 16, 2)


def test_a_network_under_unet_without_a_scheduler_is_linear(tmp_path):
    small_unet().save_pretrained(tmp_path / "unet")
    network = load_unconditional(str(tmp_path))
    assert np.array_equal(network.schedule.alphas_cumprod, Schedule.linear().alphas_cumprod)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 400])
    assert torch.equal(network(x, t), small_unet().eval()(x, t).sample)


def test_space_to_depth_is_a_change_of_basis(tmp_path):
    small_unet(4, 8, 8).save_pretrained(tmp_path / "unet")
    (tmp_path / "diffadapt.json").write_text(
        json.dumps({"space_to_depth": 2, "image_size": 16, "channels": 1})
    )
    network = load_unconditional(str(tmp_path))
    assert (network.channels, network.image_size, network.multiple) == (1, 16, 4)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 400])
    out = network(x, t)
    assert out.shape == (2, 2, 16, 16)
    direct = network.unet(torch.nn.functional.pixel_unshuffle(x, 2), t).sample
    # The first half of the output channels is the prediction for the image, the second its variance.
    assert torch.equal(torch.nn.functional.pixel_unshuffle(out[:, :1], 2), direct[:, :4])
    assert torch.equal(torch.nn.functional.pixel_unshuffle(out[:, 1:], 2), direct[:, 4:])


def test_the_revision_follows_the_weights(tmp_path):
    small_unet().save_pretrained(tmp_path / "a")
    changed = small_unet()
    with torch.no_grad():
        changed.conv_out.bias += 1
    changed.save_pretrained(tmp_path / "b")
    a, again, b = (load_unconditional(str(tmp_path / n)).revision for n in ("a", "a", "b"))
    assert a == again != b


def test_stages_that_use_the_same_network_load_it_once_and_free_it_together(tmp_path):
    small_unet().save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    first, second = load_unconditional(str(tmp_path / "a")), load_unconditional(str(tmp_path / "copy"))
    assert first is second, "it is the content that counts"
    assert load_unconditional(str(tmp_path / "a"), precision="bf16") is not first
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None, "no open stage has it, so its memory is free"


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_return_float32_with_gradients(precision):
    network = UnconditionalNetwork(small_unet(), precision=precision)
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    out = network(x, torch.tensor([10]))
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert out.dtype == gradient.dtype == torch.float32
    exact = UnconditionalNetwork(small_unet())(x, torch.tensor([10]))
    assert torch.allclose(out, exact, atol=0.05)


def test_the_float32_mode_is_put_back():
    before = torch.get_float32_matmul_precision()
    with UnconditionalNetwork(small_unet(), precision="tf32").float32_mode():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_missing_weights_say_what_to_do():
    with pytest.raises(WeightsError, match="import-adm"):
        load_unconditional("adm-256-uncond")
    with pytest.raises(WeightsError):
        load_unconditional("nobody/nothing-here")


def test_networks_of_another_kind_are_refused(tmp_path):
    DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=1, num_layers=1, sample_size=8, patch_size=2
    ).save_pretrained(tmp_path / "dit")
    with pytest.raises(WeightsError, match="DiTTransformer2DModel"):
        load_unconditional(str(tmp_path / "dit"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(WeightsError):
        load_unconditional(str(tmp_path / "empty"))


def test_channels_that_fit_no_image_are_refused():
    with pytest.raises(WeightsError, match="space_to_depth 2"):
        UnconditionalNetwork(small_unet(1), space_to_depth=2)
    with pytest.raises(WeightsError, match="output channels"):
        UnconditionalNetwork(small_unet(1, 3))


def test_small_networks_that_upsample_cannot_project(tmp_path):
    small_unet().save_pretrained(tmp_path / "unet")
    (tmp_path / "diffadapt.json").write_text(json.dumps({"upsample": 2, "image_size": 32}))
    with pytest.raises(WeightsError, match="upsamples"):
        load_unconditional(str(tmp_path))
