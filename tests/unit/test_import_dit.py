"""Conversion of the authors' DiT checkpoints, and what it says when a file does not fit."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from diffadapt.core.errors import WeightsError
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.generators.dit import load_generator
from diffadapt.models.diffusers_folder import save_component
from diffadapt.models.importers.dit import dit_from_original, import_dit, infer_config, read_checkpoint
from diffadapt.models.importers.dit_reference import dit_forward

SDA = Path(__file__).resolve().parents[1] / "golden" / "sda"
TINY = SDA / "dit_tiny_weights.safetensors"


@pytest.fixture
def state():
    return {k: v.float() for k, v in load_file(TINY).items()}


def test_the_independent_forward_pass_equals_the_reference(state):
    f = load_file(SDA / "dit_loop.safetensors")
    found = dit_forward(state, f["forward.x"], f["forward.t"], f["forward.y"], num_heads=2)
    assert float((found - f["forward.out"]).abs().max()) < 1e-5


def test_configuration_is_read_from_the_shapes(state):
    stated = json.loads(read_checkpoint(TINY)[1]["config"])
    assert infer_config(state) == {**stated, "num_heads": None}


def test_import_writes_a_pipeline_folder_that_samples(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    save_component(vae, tmp_path / "vae")
    report = import_dit(
        TINY, tmp_path / "out", str(tmp_path / "vae"), class_names=[f"class {i}" for i in range(20)]
    )
    assert report.max_relative_error < 1e-5
    assert report.config["num_attention_heads"] == 2 and len(report.source_sha256) == 64
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline" and index["id2label"]["19"] == "class 19"
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["variance_type"] == "learned_range" and scheduler["clip_sample"] is False
    generator = load_generator(str(tmp_path / "out"))
    assert generator.class_names[3] == "class 3"
    assert generator.sample([0, 19], [1, 2], SynthConfig(steps=3, guidance=1.5)).shape == (2, 3, 16, 16)


def test_a_torch_file_with_ema_inside_is_read(tmp_path, state):
    torch.save({"model": {k: v * 0 for k, v in state.items()}, "ema": state, "step": 7}, tmp_path / "c.pt")
    report = import_dit(tmp_path / "c.pt", tmp_path / "out", config={"num_heads": 2})
    assert report.max_relative_error < 1e-5
    assert not (tmp_path / "out" / "vae").exists()


def test_half_precision_files_convert(tmp_path, state):
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pt")
    model = dit_from_original(read_checkpoint(tmp_path / "half.pt")[0], {"num_heads": 2})
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_heads_must_be_told_for_an_unpublished_width(state):
    with pytest.raises(WeightsError, match="pass num_heads"):
        dit_from_original(state)
    with pytest.raises(WeightsError, match="cannot have 5 attention heads"):
        dit_from_original(state, {"num_heads": 5})


def test_misfits_are_named(state):
    broken = dict(state)
    del broken["blocks.1.attn.qkv.bias"]
    broken["blocks.0.mlp.fc1.bias"] = torch.zeros(7)
    broken["blocks.0.surprise.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        dit_from_original(broken, {"num_heads": 2})
    message = str(caught.value)
    assert "missing" in message and "transformer_blocks.1.attn1.to_k.bias" in message
    assert "1 unexpected (e.g. blocks.0.surprise.weight)" in message
    assert "ff.net.0.proj.bias is (7,), wanted (288,)" in message


def test_another_positional_table_is_refused(state):
    state["pos_embed"] = state["pos_embed"] + 0.1
    with pytest.raises(WeightsError, match="sine-cosine"):
        dit_from_original(state, {"num_heads": 2})


def test_the_self_check_catches_a_wrong_number_of_heads(tmp_path, state, monkeypatch):
    import diffadapt.models.importers.dit as module

    honest = module.dit_forward
    monkeypatch.setattr(module, "dit_forward", lambda s, x, t, y, heads: honest(s, x, t, y, 4))
    save_file(state, tmp_path / "s.safetensors")
    with pytest.raises(WeightsError, match="deviates by"):
        import_dit(tmp_path / "s.safetensors", tmp_path / "out", config={"num_heads": 2})


def test_unreadable_files(tmp_path, state):
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "junk.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "junk.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="not a DiT checkpoint"):
        dit_from_original({"fc.weight": torch.zeros(2, 2)})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="dictionary of tensors"):
        read_checkpoint(tmp_path / "list.pt")


def test_class_names_must_match(tmp_path):
    with pytest.raises(WeightsError, match="2 class names"):
        import_dit(TINY, tmp_path / "out", class_names=["a", "b"])
