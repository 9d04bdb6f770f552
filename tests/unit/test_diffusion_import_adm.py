"""Importing the original ADM checkpoint: the key map, what is refused, and the published network's size."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusers import UNet2DModel  # noqa: E402

from diffadapt.core.errors import WeightsError  # noqa: E402
from diffadapt.diffusion.network import load_unconditional  # noqa: E402
from diffadapt.models.adm import ADMConfig, infer_config, key_map  # noqa: E402
from diffadapt.models.importers.adm import (
    adm_from_original,
    import_adm,
    read_checkpoint,
    self_check,
)  # noqa: E402
from diffadapt.models.importers.adm_reference import adm_forward  # noqa: E402

TINY = Path(__file__).parents[1] / "golden" / "sda" / "adm_tiny_weights.safetensors"


@pytest.fixture
def tiny():
    return read_checkpoint(TINY)


def random_state(config: ADMConfig) -> dict[str, torch.Tensor]:
    """Random tensors under the original's names for ``config``, by inverting the map's shapes."""
    with torch.device("meta"):
        wanted = UNet2DModel(**config.unet_config()).state_dict()
    state = {}
    for old, new, kind in key_map(config):
        for part in ("weight", "bias"):
            if kind == "qkv":
                rows, *tail = wanted[f"{new}.to_q.{part}"].shape
                shape = (3 * rows, *tail, 1) if tail else (3 * rows,)
            else:
                shape = tuple(wanted[f"{new}.{part}"].shape)
                shape = (*shape, 1) if kind == "linear" and part == "weight" else shape
            state[f"{old}.{part}"] = torch.randn(shape) * 0.1
    return state


def test_the_published_network_has_its_published_size():
    with torch.device("meta"):
        unet = UNet2DModel(**ADMConfig().unet_config())
    assert sum(p.numel() for p in unet.parameters()) == 552_814_086
    names = {
        f"{new}.{t}" if kind == "qkv" else new
        for _, new, kind in key_map(ADMConfig())
        for t in ("to_q", "to_k", "to_v")
    }
    assert {k.rpartition(".")[0] for k in unet.state_dict()} == names


def test_the_published_configuration_is_read_off_its_keys():
    with torch.device("meta"):
        state = random_state(ADMConfig())
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes["input_blocks.17.1.qkv.weight"] == (3072, 1024, 1)
    assert infer_config(shapes) == ADMConfig()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"channel_mult": (1, 2), "attention_ds": (2,), "num_res_blocks": 2},
        {"scale_shift": False},
        {"legacy_qkv": False},
        {"in_channels": 1, "out_channels": 1},
        {"channel_mult": (1, 2, 2, 3), "attention_ds": (8,), "num_res_blocks": 3, "num_head_channels": 32},
    ],
)
def test_other_shapes_import_exactly_too(tiny, change):
    config = dataclasses.replace(tiny[1], **change)
    state = random_state(config)
    assert self_check(adm_from_original(state, config), state, config) < 2e-5
    found = infer_config(
        {k: tuple(v.shape) for k, v in state.items()}, config.image_size, config.num_head_channels
    )
    assert dataclasses.replace(found, legacy_qkv=config.legacy_qkv) == config


def test_the_head_order_of_qkv_matters(tiny):
    """Slicing qkv as (3, heads) where it is head-major gives another function: the reference notices."""
    state, config = tiny
    wrong = dataclasses.replace(config, legacy_qkv=False)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([10])
    with torch.no_grad():
        right, other = adm_forward(upcast(state), config, x, t), adm_from_original(state, wrong)(x, t).sample
    assert float((right - other).abs().max()) > 1e-2


def upcast(state):
    return {k: v.float() for k, v in state.items()}


def test_the_written_folder_loads_and_computes_the_same(tmp_path, tiny):
    report = import_adm(TINY, tmp_path / "adm")
    assert report.parameters == 998_342 and report.max_relative_error < 1e-5
    details = json.loads((tmp_path / "adm" / "diffadapt.json").read_text())
    assert details["source_sha256"] == report.source_sha256 and details["image_size"] == 32
    network = load_unconditional(str(tmp_path / "adm"))
    assert (network.channels, network.image_size, len(network.schedule)) == (3, 32, 1000)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([5, 900])
    with torch.no_grad():
        assert torch.allclose(network(x, t), adm_forward(upcast(tiny[0]), tiny[1], x, t), atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adm"]


def test_a_torch_checkpoint_imports_with_a_given_configuration(tmp_path, tiny):
    torch.save(tiny[0], tmp_path / "adm.pt")
    report = import_adm(tmp_path / "adm.pt", tmp_path / "out", tiny[1])
    assert report.config == tiny[1]


def test_missing_and_unexpected_keys_are_named(tmp_path, tiny):
    state, config = tiny
    del state["middle_block.1.qkv.bias"]
    state["input_blocks.0.0.extra"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"middle_block\.1\.qkv\.bias.*input_blocks\.0\.0\.extra"):
        adm_from_original(state, config)


def test_wrong_shapes_are_named(tiny):
    state, config = tiny
    state["out.2.weight"] = torch.zeros(3, 32, 3, 3)
    with pytest.raises(WeightsError, match=r"conv_out\.weight is \(3, 32, 3, 3\), not \(6, 32, 3, 3\)"):
        adm_from_original(state, config)


def test_class_conditional_checkpoints_are_refused(tiny):
    shapes = {k: tuple(v.shape) for k, v in tiny[0].items()} | {"label_emb.weight": (1000, 128)}
    with pytest.raises(WeightsError, match="class-conditional"):
        infer_config(shapes)


def test_unreadable_missing_and_foreign_files(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint"):
        import_adm(tmp_path / "none.pt", tmp_path / "out")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(WeightsError, match="cannot be read"):
        import_adm(tmp_path / "torn.pt", tmp_path / "out")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="not an ADM"):
        import_adm(tmp_path / "other.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="not empty"):
        import_adm(TINY, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_undivisible_heads_ask_for_the_configuration(tiny):
    with pytest.raises(WeightsError, match="num_head_channels"):
        infer_config({k: tuple(v.shape) for k, v in tiny[0].items()}, 32, 64)
