"""Folders of generators that are damaged or do not belong together: planning refuses them, of headers
alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinypipelines import autoencoder, stable_diffusion

from diffadapt.core.errors import DiffadaptError
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.generators.base import generator_of
from diffadapt.diffusion.generators.config import SynthConfig, TextToImageConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.models.diffusers_folder import save_component, save_scheduler, write_model_index
from diffadapt.models.dit import build_dit, save_dit
from diffadapt.stages.align import Align
from diffadapt.stages.synthesize import Synthesize

WIDTHS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Whole folders: a text-to-image pipeline with a ControlNet of its own, a DiT with an autoencoder, an
    unconditional network."""
    from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel

    root = tmp_path_factory.mktemp("folders")
    stable_diffusion(root / "pipe")
    unet = UNet2DConditionModel.from_pretrained(root / "pipe" / "unet")
    save_component(
        ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)),
        root / "pipe" / "controlnet",
    )
    dit = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_layers": 1,
        "in_channels": 4,
        "out_channels": 8,
    }
    save_dit(
        build_dit(**dit, sample_size=8, patch_size=4, num_embeds_ada_norm=3), root / "dit" / "transformer"
    )
    save_component(autoencoder(), root / "dit" / "vae")
    save_scheduler(root / "dit", learn_sigma=True, clip_sample=False)
    write_model_index(root / "dit", "DiTPipeline", has_vae=True)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    net = UNet2DModel(sample_size=16, add_attention=False, **WIDTHS, **blocks)
    save_component(net, root / "adm" / "unet")
    save_scheduler(root / "adm", learn_sigma=False, clip_sample=True)
    write_model_index(root / "adm", "DDPMPipeline")
    return root


def check(kind: str, folder: Path) -> None:
    """What planning checks of the folder as one of a generator of ``kind``."""
    weights = str(folder)
    if kind == "adm":
        Align(AlignConfig(weights=weights)).plan({"images": _Nothing()})
    elif kind == "dit":
        Synthesize(replace(SynthConfig(), weights=weights), num_classes=3).plan({})
    elif kind == "pipe":
        generator_of(weights).check(TextToImageConfig(weights=weights, size=0))
    else:
        generator_of(weights).check(TransferConfig(weights=weights, controlnet="", multiple=8))


class _Nothing:
    """A node without shards."""

    name, shards = "images", ()


def lose(folder: Path, part: str, nth: int = 0) -> None:
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    del state[sorted(state)[nth]]
    save_file(state, file, metadata={"format": "pt"})


def alter(folder: Path, part: str, name: str = "config.json", **values) -> None:
    file = folder / part / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def other_latents(folder: Path) -> None:
    save_component(autoencoder_of(3), folder / "vae")


def autoencoder_of(latents: int):
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=latents, **blocks)


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        ("pipe", lambda f: lose(f, "unet"), "unet' do not fit the UNet2DCond.*: 1 missing"),
        ("pipe", lambda f: alter(f, "unet", cross_attention_dim=24), "unet' do not fit .* another shape"),
        ("pipe", lambda f: lose(f, "text_encoder"), "text_encoder' do not fit the CLIPTextM.*: 1 missing"),
        ("pipe", lambda f: alter(f, "text_encoder", hidden_size=32), "CLIPTextModel .* of another shape"),
        ("pipe", lambda f: alter(f, "vae", up_block_types=["What"] * 2), "No AutoencoderKL can be made of"),
        ("pipe", lambda f: (f / "vae" / "config.json").write_text("{"), "vae"),
        ("pipe", lambda f: [p.unlink() for p in (f / "tokenizer").iterdir()], "No CLIPTokenizer can be made"),
        ("pipe", lambda f: alter(f, "", "model_index.json", unet=["diffusers", "UNet9"]), "wants a UNet9"),
        ("pipe", lambda f: alter(f, "", "model_index.json", unet=["own", "Model"]), "want Python code"),
        ("pipe", lambda f: (f / "model_index.json").write_text("[]"), "holds no settings"),
        ("pipe", lambda f: (f / "model_index.json").write_text('{"_class_name": null}'), "names no pipeline"),
        ("scenes", lambda f: lose(f, "controlnet"), "controlnet' do not fit the ControlNetM.*: 1 missing"),
        ("scenes", lambda f: lose(f, "vae", 3), "vae' do not fit the AutoencoderKL .*: 1 missing"),
        ("dit", lambda f: lose(f, "transformer", 2), "transformer' do not fit the DiTTransformer2DModel"),
        ("dit", lambda f: alter(f, "transformer", attention_head_dim=8), "of another shape"),
        ("dit", lambda f: alter(f, "transformer", num_embeds_ada_norm=2), "another shape"),
        ("dit", other_latents, "vae of .* has 3 latent channels but its transformer 4"),
        ("adm", lambda f: lose(f, "unet"), "unet' do not fit the UNet2DModel .*: 1 missing"),
        ("adm", lambda f: alter(f, "unet", block_out_channels=[8, 8]), "of another shape"),
        ("adm", lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "has no weights in"),
        ("adm", lambda f: alter(f, "unet", _class_name="UNet2DConditionModel"), "are a UNet2DConditionModel"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_sentence_while_planning(folders, tmp_path, kind, damage, said):
    folder = Path(shutil.copytree(folders / ("pipe" if kind == "scenes" else kind), tmp_path / "copy"))
    damage(folder)
    with pytest.raises(DiffadaptError, match=said) as caught:
        check(kind, folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "scenes", "dit", "adm"])
def test_whole_folders_pass_and_no_tensor_is_read(folders, kind, monkeypatch):
    monkeypatch.setattr("diffadapt.models.state_dict.load_file", None)
    check(kind, folders / ("pipe" if kind == "scenes" else kind))


def test_more_tensors_other_names_and_older_ones_pass(folders, tmp_path):
    """As the libraries read them: names of older versions, and tensors that the class does not have."""
    folder = Path(shutil.copytree(folders / "pipe", tmp_path / "copy"))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, old in older.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name

    vae = next((folder / "vae").glob("*.safetensors"))
    state = load_file(vae)
    assert {renamed(k) for k in state} != set(state)
    save_file({renamed(k): v for k, v in state.items()}, vae, metadata={"format": "pt"})
    text = next((folder / "text_encoder").glob("*.safetensors"))
    state = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in load_file(text).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(state, text, metadata={"format": "pt"})
    check("pipe", folder)


def test_a_controlnet_of_another_network_is_refused_while_planning(folders, tmp_path):
    control = Path(shutil.copytree(folders / "pipe" / "controlnet", tmp_path / "control"))
    config = TransferConfig(weights=str(folders / "pipe"), controlnet=str(control), multiple=8)
    generator_of(config.weights).check(config)
    lose(control, "")
    with pytest.raises(DiffadaptError, match="control' do not fit the ControlNetModel"):
        generator_of(config.weights).check(config)
    from diffusers import ControlNetModel

    small = ControlNetModel.from_config(
        ControlNetModel.load_config(str(folders / "pipe" / "controlnet")), cross_attention_dim=8
    )
    save_component(small, control)
    with pytest.raises(DiffadaptError, match="was made for another network than"):
        generator_of(config.weights).check(config)
