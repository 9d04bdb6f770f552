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
    with pytest.raises(WeightsError, match=r"is a single file.*from_single_file\('dreams"):
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
