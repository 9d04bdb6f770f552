"""Text-to-image pipelines: an image is its prompt's and seed's alone; settings that cannot work are refused
in one sentence."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tinypipelines as tiny
import torch

from diffadapt.core.errors import ItemError, RecipeError, WeightsError
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.diffusion.generators.pipeline_index import check_settings, pipeline_index
from diffadapt.diffusion.generators.text_to_image import load_text_to_image

KINDS = {
    "sd": tiny.stable_diffusion,
    "sdxl": tiny.stable_diffusion_xl,
    "sd3": tiny.stable_diffusion_3,
    "flux": tiny.flux,
    "if": tiny.deepfloyd_if,
}
PROMPTS = ["a photo of a dog", "a cat", "red car in the tree"]
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made: dict[str, str] = {}

    def get(kind: str) -> str:
        if kind not in made:
            made[kind] = KINDS[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


def config(weights: str, **more) -> TextToImageConfig:
    return TextToImageConfig(**{"weights": weights, "steps": 3, "precision": "fp32", "size": 16, **more})


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_pipeline_makes_images_that_depend_on_their_own_prompt_and_seed(folder, kind):
    generator = load_text_to_image(config(folder(kind)))
    together = generator.generate(PROMPTS, SEEDS)
    assert [(image.shape, image.dtype) for image in together] == [((16, 16, 3), np.uint8)] * 3
    backwards = generator.generate(PROMPTS[::-1], SEEDS[::-1])[::-1]
    for i in range(3):
        (alone,) = generator.generate([PROMPTS[i]], [SEEDS[i]])
        assert difference(together[i], alone) <= 1
        assert difference(together[i], backwards[i]) <= 1
    assert difference(generator.generate(["a cat"], [99])[0], together[1]) > 1
    assert difference(generator.generate(["the tree"], [12])[0], together[1]) > 1


@pytest.mark.parametrize(
    "scheduler", ["pipeline", "ddim", "ddpm", "euler", "euler_ancestral", "dpmsolver++", "unipc", "lcm"]
)
def test_every_scheduler_draws_the_noise_of_its_own_images(folder, scheduler):
    generator = load_text_to_image(config(folder("sd"), scheduler=scheduler, steps=4))
    torch.manual_seed(1)
    together = generator.generate(PROMPTS, SEEDS)
    torch.manual_seed(2)  # the global generator has no part in it
    assert difference(generator.generate(PROMPTS[2:], SEEDS[2:])[0], together[2]) <= 1


def test_schedulers_differ_and_keep_the_pipelines_noise_schedule(folder):
    made = {}
    for name in ("ddim", "ddpm", "euler", "euler_ancestral"):
        generator = load_text_to_image(config(folder("sd"), scheduler=name, steps=4))
        assert (
            generator.pipe.scheduler.config.beta_schedule == "scaled_linear"
            and generator.pipe.scheduler.config.beta_end == 0.012
        )
        made[name] = generator.generate(["a cat"], [1])[0]
    assert (
        difference(made["ddim"], made["ddpm"]) > 1 and difference(made["euler"], made["euler_ancestral"]) > 1
    )
    assert (
        difference(made["ddpm"], made["euler_ancestral"]) <= 1
    )  # the same reverse process in two parametrisations, with the same noise


def test_step_noise_belongs_to_the_image_even_where_the_pipeline_forgets_its_generators(folder, tmp_path):
    """SD3's loop does not pass generators to the scheduler; a stochastic flow sampler would draw from the
    global one."""
    shutil.copytree(folder("sd3"), tmp_path / "sd3")
    file = tmp_path / "sd3" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "stochastic_sampling": True}))
    generator = load_text_to_image(config(str(tmp_path / "sd3")))
    torch.manual_seed(1)
    first = generator.generate(PROMPTS, SEEDS)
    torch.manual_seed(2)
    again = generator.generate(PROMPTS[1:], SEEDS[1:])
    assert difference(first[1], again[0]) <= 1 and difference(first[2], again[1]) <= 1
    plain = load_text_to_image(config(folder("sd3"))).generate(PROMPTS, SEEDS)
    assert difference(first[0], plain[0]) > 1  # the noise was there


def test_guidance_of_at_most_one_is_off_and_more_is_on(folder):
    calls = []

    def images(guidance: float) -> np.ndarray:
        generator = load_text_to_image(config(folder("sd"), guidance=guidance))
        hook = generator.pipe.unet.register_forward_pre_hook(
            lambda module, args: calls.append(args[0].shape[0])
        )
        result = generator.generate(["a cat"], [1])[0]
        hook.remove()
        return result

    off, also_off = images(1.0), images(0.0)
    assert set(calls) == {1} and difference(off, also_off) == 0
    on = images(5.0)
    assert calls[-1] == 2 and difference(on, off) > 1


def test_negative_prompt_changes_the_image_and_flux_has_no_use_for_one(folder):
    plain = load_text_to_image(config(folder("sd"), guidance=6.0)).generate(["a cat"], [1])[0]
    other = load_text_to_image(config(folder("sd"), guidance=6.0, negative_prompt="painting")).generate(
        ["a cat"], [1]
    )[0]
    assert difference(plain, other) > 0
    with pytest.raises(RecipeError, match="negative_prompt"):
        load_text_to_image(config(folder("flux"), negative_prompt="painting"))
    with pytest.raises(RecipeError, match="guidance"):
        check_settings(config(folder("sd"), guidance=1.0, negative_prompt="painting"), None)


def test_flux_takes_guidance_as_an_embedding(folder):
    low = load_text_to_image(config(folder("flux"), guidance=1.0)).generate(["a cat"], [1])[0]
    high = load_text_to_image(config(folder("flux"), guidance=50.0)).generate(["a cat"], [1])[0]
    assert difference(low, high) > 0


def test_sizes(folder):
    assert load_text_to_image(config(folder("sd"), size=0)).size == 16
    assert load_text_to_image(config(folder("sd"), size=24)).generate(["a cat"], [1])[0].shape == (24, 24, 3)
    for kind, multiple in (("sd", 2), ("sd3", 4), ("flux", 4)):
        with pytest.raises(RecipeError, match=f"multiple of {multiple}"):
            load_text_to_image(config(folder(kind), size=17))
    with pytest.raises(RecipeError, match="refuses these settings"):  # beyond SD3's position table
        load_text_to_image(config(folder("sd3"), size=64)).generate(["a cat"], [1])


def test_flow_matching_refuses_other_samplers_before_weights_are_loaded(folder):
    for kind in ("sd3", "flux"):
        index = pipeline_index(folder(kind))
        assert index.flow_matching
        with pytest.raises(RecipeError, match="flow-matching"):
            check_settings(config(folder(kind), scheduler="ddim"), index)
    same = load_text_to_image(config(folder("sd3"), scheduler="euler")).generate(["a cat"], [1])[0]
    assert difference(same, load_text_to_image(config(folder("sd3"))).generate(["a cat"], [1])[0]) == 0
    assert not pipeline_index(folder("sdxl")).flow_matching


def test_too_many_steps_are_a_recipe_error(folder):
    with pytest.raises(RecipeError, match="cannot take 60 steps"):
        load_text_to_image(config(folder("sd"), scheduler="lcm", steps=60))
    with pytest.raises(RecipeError, match="at least one step"):
        load_text_to_image(config(folder("sd"), steps=0))


def test_fp16_on_a_cpu_is_fp32_and_said(folder, caplog):
    with caplog.at_level(logging.WARNING):
        generator = load_text_to_image(config(folder("sd"), precision="fp16"), "cpu")
    assert generator.precision == "fp32" and sum("fp16" in r.getMessage() for r in caplog.records) == 1
    same = load_text_to_image(config(folder("sd"))).generate(["a cat"], [1])[0]
    assert difference(generator.generate(["a cat"], [1])[0], same) == 0


def test_bf16_runs_and_is_near_fp32(folder):
    half = load_text_to_image(config(folder("sd"), precision="bf16"))
    assert half.pipe.unet.dtype == torch.bfloat16
    image = half.generate(["a cat"], [1])[0]
    assert image.dtype == np.uint8 and image.std() > 5


def test_safety_checker_is_off_by_default_and_blocks_without_black_images(tmp_path):
    weights = tiny.stable_diffusion(tmp_path / "safe", safety=True)
    off = load_text_to_image(config(weights))
    assert off.pipe.safety_checker is None
    image = off.generate(["a cat"], [1])[0]
    on = load_text_to_image(config(weights, safety_checker=True))
    blocks = []
    original = on.pipe.safety_checker.forward

    def second_is_bad(images, clip_input):
        images, _ = original(images=images, clip_input=clip_input)
        images[1] = 0
        blocks.append(len(images))
        return images, [False, True]

    on.pipe.safety_checker.forward = second_is_bad
    good, bad = on.generate(["a cat", "a dog"], [1, 2])
    assert blocks == [2] and isinstance(bad, ItemError) and "safety checker" in str(bad)
    assert difference(good, image) <= 1
    shutil.rmtree(
        Path(weights) / "safety_checker"
    )  # named in the index but not there, as in trimmed downloads
    shutil.rmtree(Path(weights) / "feature_extractor")
    assert difference(load_text_to_image(config(weights)).generate(["a cat"], [1])[0], image) == 0


def test_a_safety_checker_that_is_not_there_cannot_be_asked_for(folder):
    for kind in ("sd", "sdxl", "flux"):
        with pytest.raises(RecipeError, match="safety_checker"):
            load_text_to_image(config(folder(kind), safety_checker=True))


def test_nan_is_an_item_error_that_names_the_precision(folder):
    generator = load_text_to_image(config(folder("sd")))
    original = generator.pipe.vae.decode

    def poisoned(latents, **kwargs):
        out = original(latents, **kwargs)
        out[0][1] = float("nan")
        return out

    generator.pipe.vae.decode = poisoned
    good, bad = generator.generate(["a cat", "a dog"], [1, 2])
    assert (
        isinstance(good, np.ndarray)
        and isinstance(bad, ItemError)
        and "NaN" in str(bad)
        and "fp32" in str(bad)
    )


def test_weights_that_are_missing_or_of_another_kind(folder, tmp_path):
    with pytest.raises(WeightsError, match="hf download nobody/nothing"):
        load_text_to_image(config("nobody/nothing"))
    with pytest.raises(WeightsError, match="model_index.json"):
        load_text_to_image(config(str(tmp_path)))
    with pytest.raises(WeightsError, match="takes no prompt"):
        load_text_to_image(config("embedded:digits-dit"))
    for name in ("glide", "GLIDE", "openai/glide-text2im"):
        with pytest.raises(WeightsError, match="0018-glide.md"):
            load_text_to_image(config(name))
    broken = shutil.copytree(folder("sd"), tmp_path / "broken")
    for file in (broken / "unet").glob("*.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="could be loaded"):
        load_text_to_image(config(str(broken)))
    (broken / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        pipeline_index(str(broken))


def test_a_prompt_that_is_cut_is_said_once(folder, caplog):
    generator = load_text_to_image(config(folder("sd")))
    with caplog.at_level(logging.WARNING):
        generator.generate(["a cat"], [1])
        assert not caplog.records
        generator.generate(
            ["a photo of the red dog in the tree a cat car painting of the cat in a style", "a cat " * 20],
            [1, 2],
        )
        generator.generate(["a cat " * 20], [1])
    assert len(caplog.records) == 1 and "the pipeline reads 16" in caplog.text


def test_grey_pipelines_give_one_channel(tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny.stable_diffusion(tmp_path / "rgb"))
    grey = replace_autoencoder(pipe)
    grey.save_pretrained(tmp_path / "grey")
    (image,) = load_text_to_image(config(str(tmp_path / "grey"))).generate(["a cat"], [1])
    assert image.shape == (16, 16, 1)


def replace_autoencoder(pipe):
    from diffusers import AutoencoderKL

    pipe.vae = AutoencoderKL(**{**pipe.vae.config, "in_channels": 1, "out_channels": 1})
    return pipe


def test_compiled_or_not_is_no_part_of_what_is_made():
    from diffadapt.stages.text_to_image import TextToImage

    base = TextToImageConfig()
    assert (
        TextToImage(base, 3).identity()
        == TextToImage(replace(base, batch_size=2, compile=True), 3).identity()
    )
    assert TextToImage(base, 3).identity() != TextToImage(replace(base, guidance=3.0), 3).identity()
