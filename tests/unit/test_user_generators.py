"""Generators as users have them: folders with one variant of the weights, single files, checkpoints of the
DiT authors' training."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffadapt.core.errors import WeightsError
from diffadapt.core.leniency import lenient
from diffadapt.diffusion.generators.base import generator_of
from diffadapt.diffusion.generators.config import SynthConfig, TextToImageConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.importers.dit import import_dit
from diffadapt.models.weights import ASSETS
from diffadapt.stages.image_grid import grid_identity

TINY = Path(__file__).resolve().parents[1] / "golden" / "sda" / "dit_tiny_weights.safetensors"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def copied(name: str, out: Path, variant: str = "") -> Path:
    """A shipped folder, its weights in one variant alone."""
    shutil.copytree(ASSETS / name, out)
    for file in list(out.rglob("*.safetensors")) if variant else ():
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    return out


def plan(config) -> None:
    """What planning checks of a generator, with what is missing noted only."""
    with lenient():
        generator_of(config.weights).check(config)


@pytest.mark.parametrize(
    "name, config, option",
    [
        ("glyphs", TextToImageConfig(size=0), "generator"),
        ("digits-dit", SynthConfig(), "synth"),
        ("streets", TransferConfig(controlnet=""), "transfer"),
    ],
)
def test_weights_of_one_variant_are_named_while_planning(tmp_path, name, config, option):
    folder = copied(name, tmp_path / "pipe", "fp16")
    config = replace(config, weights=str(folder))
    with pytest.raises(WeightsError, match=f"in the variant fp16 alone: add --{option}.variant fp16"):
        plan(config)
    plan(replace(config, variant="fp16"))
    with pytest.raises(WeightsError, match="in the variant fp16 alone"):
        plan(replace(config, variant="bf16"))
    plain = replace(config, weights=str(copied(name, tmp_path / "plain")))
    plan(plain)
    with pytest.raises(WeightsError, match="no files of the variant 'fp16'"):
        plan(replace(plain, variant="fp16"))


def test_a_variant_is_loaded_and_counts(tmp_path):
    folder = copied("glyphs", tmp_path / "pipe", "fp16")
    config = TextToImageConfig(weights=str(folder), variant="fp16", steps=1, precision="fp32")
    (found,) = generator_of(config.weights).from_prompts(config, "cpu")(["a seven"], [3])
    shipped = replace(config, weights="embedded:glyphs", variant="")
    (wanted,) = generator_of(shipped.weights).from_prompts(shipped, "cpu")(["a seven"], [3])
    assert (found == wanted).all()
    dit = SynthConfig(weights=str(copied("digits-dit", tmp_path / "dit", "fp16")), variant="fp16", steps=1)
    (image,) = generator_of(dit.weights).from_labels(dit, "cpu", 3)([1], [3])
    plain = replace(dit, weights="embedded:digits-dit", variant="")
    assert (image == generator_of(plain.weights).from_labels(plain, "cpu", 3)([1], [3])[0]).all()
    for kind in (TextToImageConfig(), SynthConfig()):
        assert "variant" not in grid_identity(kind, 0)["config"]
        assert grid_identity(replace(kind, variant="fp16"), 0)["config"]["variant"] == "fp16"


def test_folders_that_lack_something_are_refused_while_planning(tmp_path):
    folder = copied("glyphs", tmp_path / "pipe")
    config = TextToImageConfig(weights=str(folder))
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = unet.read_bytes()
    for content, clause in (
        (data[:-5], "damaged or not complete"),
        (b"", "damaged or not complete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", "pointer of Git LFS"),
    ):
        unet.write_bytes(content)
        with pytest.raises(WeightsError, match=clause):
            plan(config)
    unet.unlink()
    with pytest.raises(WeightsError, match="no weights in its folder unet"):
        plan(config)
    shutil.rmtree(folder / "unet")
    with pytest.raises(WeightsError, match="no folder unet"):
        plan(config)
    dit = copied("digits-dit", tmp_path / "dit")
    (dit / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsError, match="no DiT pipeline.*import-dit"):
        plan(SynthConfig(weights=str(dit)))


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_single_file_says_how_it_becomes_a_folder(tmp_path, ending):
    file = tmp_path / f"dreams{ending}"
    file.write_bytes(b"x")
    with pytest.raises(WeightsError, match="is a single file.*weights import-single-file .*--out dreams"):
        plan(TextToImageConfig(weights=str(file)))


@pytest.fixture
def state():
    return {k: v.float() for k, v in load_file(TINY).items()}


def test_training_checkpoints_of_the_authors_are_read_safely(tmp_path, state):
    wanted = import_dit(TINY, tmp_path / "plain")
    zeros = {k: v * 0 for k, v in state.items()}
    train = {
        "model": {f"module.{k}": v for k, v in zeros.items()},
        "ema": state,
        "opt": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="DiT-XL/2", image_size=256, global_seed=0),
    }
    torch.save(train, tmp_path / "0400000.pt")
    report = import_dit(tmp_path / "0400000.pt", tmp_path / "ema", config={"num_heads": 2})
    assert report.config == wanted.config and report.max_relative_error < 1e-5
    part = "transformer/diffusion_pytorch_model.safetensors"
    plain, ema = (load_file(tmp_path / name / part) for name in ("plain", "ema"))
    assert all(torch.equal(ema[k], v) for k, v in plain.items())


def test_half_precision_files_are_converted(tmp_path, state):
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "half.safetensors")
    report = import_dit(tmp_path / "half.safetensors", tmp_path / "out", config={"num_heads": 2})
    assert report.max_relative_error < 1e-4


def test_an_import_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(WeightsError):
        import_dit(TINY, tmp_path / "out", vae=str(tmp_path))
    assert not (tmp_path / "out").exists()


class TestSingleFiles:
    """A small Stable Diffusion 1.x whose tensors are written under the names of its authors' code."""

    @pytest.fixture(scope="class")
    def pipe(self):
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

        torch.manual_seed(0)
        width = (16,) * 4
        unet = UNet2DConditionModel(
            block_out_channels=width, cross_attention_dim=32, norm_num_groups=4, attention_head_dim=4
        )
        vae = AutoencoderKL(
            block_out_channels=width, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )  # fmt: skip
        text = CLIPTextConfig(
            vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        words = PreTrainedTokenizerFast.from_pretrained(ASSETS / "glyphs" / "tokenizer")
        return StableDiffusionPipeline(
            vae, CLIPTextModel(text), words, unet, DDIMScheduler(), None, None, requires_safety_checker=False
        )

    @staticmethod
    def original(pipe) -> dict[str, torch.Tensor]:
        """The pipeline's tensors under the names of the authors' code (CompVis/stable-diffusion)."""
        ends = {
            "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
            "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        }  # fmt: skip
        blocks = {"mid_block.attentions.0": "middle_block.1", "mid_block.resnets.0": "middle_block.0"}
        blocks["mid_block.resnets.1"] = "middle_block.2"
        for i in range(4):
            for j in range(3):
                if j < 2:
                    blocks[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{3 * i + j + 1}.0"
                    blocks[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{3 * i + j + 1}.1"
                blocks[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{3 * i + j}.0"
                blocks[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{3 * i + j}.1"
            blocks[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
            blocks[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}"
        inner = {
            "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
            "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
        }  # fmt: skip
        out = {}
        for key, value in pipe.unet.state_dict().items():
            stem, _, leaf = key.rpartition(".")
            block = max((b for b in blocks if key.startswith(b + ".")), key=len, default="")
            name = ends.get(stem, "")
            if block:
                rest = stem[len(block) :].lstrip(".")
                rest = inner.get(rest, rest) if "resnets" in block else rest
                name = ".".join(filter(None, (blocks[block], rest)))
            out[f"model.diffusion_model.{name}.{leaf}"] = value
        parts = {"mid_block.attentions.0.": "mid.attn_1.", "conv_norm_out": "norm_out"}
        parts |= {f"mid_block.resnets.{i}.": f"mid.block_{i + 1}." for i in range(2)}
        for i in range(4):
            parts[f"down_blocks.{i}.downsamplers.0."] = f"down.{i}.downsample."
            parts[f"up_blocks.{i}.upsamplers.0."] = f"up.{3 - i}.upsample."
            for j in range(3):
                parts[f"down_blocks.{i}.resnets.{j}."] = f"down.{i}.block.{j}."
                parts[f"up_blocks.{i}.resnets.{j}."] = f"up.{3 - i}.block.{j}."
        parts |= {
            "group_norm.": "norm.",
            "to_q.": "q.",
            "to_k.": "k.",
            "to_v.": "v.",
            "to_out.0.": "proj_out.",
        }
        for key, value in pipe.vae.state_dict().items():
            attention = "attentions" in key and value.ndim == 2
            for new, old in {**parts, "conv_shortcut": "nin_shortcut"}.items():
                key = key.replace(new, old)
            out[f"first_stage_model.{key}"] = value[..., None, None] if attention else value
        for key, value in pipe.text_encoder.state_dict().items():
            plain = key.removeprefix("text_model.")
            out[f"cond_stage_model.transformer.text_model.{plain}"] = value
        return {k: v.contiguous() for k, v in out.items()}

    @pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
    def test_a_file_becomes_the_folder_that_it_was_made_of(self, tmp_path, pipe, ending):
        from diffadapt.commands.weights import weights

        pipe.save_pretrained(tmp_path / "settings")
        for file in (tmp_path / "settings").rglob("*.safetensors"):
            file.unlink()
        checkpoint = tmp_path / f"dreams{ending}"
        if ending == ".safetensors":
            save_file(self.original(pipe), checkpoint)
        else:
            hyper = argparse.Namespace(lr=1e-4)
            torch.save({"state_dict": self.original(pipe), "global_step": 7, "args": hyper}, checkpoint)
        words = ["import-single-file", str(checkpoint), "--config", str(tmp_path / "settings")]
        assert weights([*words, "--out", str(tmp_path / "out")]) == 0
        for part in ("unet", "vae", "text_encoder"):
            wanted = getattr(pipe, part).state_dict()
            (file,) = (tmp_path / "out" / part).glob("*.safetensors")
            found = {k.removeprefix("text_model."): v for k, v in load_file(file).items()}
            wanted = {k.removeprefix("text_model."): v for k, v in wanted.items() if "position_ids" not in k}
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[k], v) for k, v in wanted.items()), part
        plan(TextToImageConfig(weights=str(tmp_path / "out")))

    def test_without_settings_it_says_which_are_needed(self, tmp_path, pipe, monkeypatch):
        from diffadapt.models.importers.single_file import import_single_file

        save_file(self.original(pipe), tmp_path / "dreams.safetensors")
        with pytest.raises(WeightsError, match="hf download stable-diffusion-v1-5/stable-diffusion-v1-5"):
            import_single_file(str(tmp_path / "dreams.safetensors"), tmp_path / "out")
        save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
        pipe.save_pretrained(tmp_path / "settings")
        with pytest.raises(WeightsError, match="does not fit|lacks weights"):
            import_single_file(
                str(tmp_path / "other.safetensors"), tmp_path / "out", str(tmp_path / "settings")
            )
        assert not (tmp_path / "out").exists()
