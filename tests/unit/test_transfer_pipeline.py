"""The transfer on a tiny random Stable Diffusion with a ControlNet: equality with diffusers, seeds, sizes,
and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffadapt.core.errors import ItemError, RecipeError, WeightsError
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.palettes import ADE20K, paint
from diffadapt.data.scenes.scene import Scene
from diffadapt.diffusion.translation.conditioning import conditioning, picture, resize_area
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.diffusion.translation.inversion import decode
from diffadapt.diffusion.translation.levels import transfer_levels
from diffadapt.diffusion.translation.pipeline import load_scene_transfer
from tests.diffusionkit import tiny_scene_pipeline
from tests.unit.tinypipelines import stable_diffusion, stable_diffusion_xl

CLASSES = builtin("cityscapes")
METHODS = [
    {},
    {"aligned": True},
    {"method": "edit_friendly"},
    {"method": "controlnet_img2img"},
    {"method": "img2img"},
    {"method": "layout"},
    {"profile": "lcm", "steps": 4},
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return tiny_scene_pipeline(tmp_path_factory.mktemp("weights") / "scenes")


@pytest.fixture(scope="module")
def config(weights) -> TransferConfig:
    return TransferConfig(weights=weights, controlnet="", size=32, multiple=16, palette="own", steps=10)


@pytest.fixture(scope="module")
def transfer(config):
    return load_scene_transfer(config, CLASSES)


def scene(number: int, size: tuple[int, int] = (32, 64)) -> Scene:
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 19, (size[0] // 8 + 1, size[1] // 8 + 1), dtype=np.uint8)
    annotation = np.kron(blocks, np.ones((8, 8), np.uint8))[: size[0], : size[1]]
    return Scene(f"k{number}", rng.integers(0, 256, (*size, 3), dtype=np.uint8), annotation)


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize(("strength", "guidance"), [(0.6, 9.0), (0.9, 9.0), (1.0, 9.0), (0.65, 1.0)])
def test_the_loop_equals_the_pipeline_of_diffusers(config, transfer, strength, guidance):
    """Given latents go through StableDiffusionControlNetImg2ImgPipeline and through the loop with the same
    noise."""
    from diffusers import DDIMScheduler, StableDiffusionControlNetImg2ImgPipeline

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    parts = {
        name: getattr(transfer.pipe, name)
        for name in ("vae", "text_encoder", "tokenizer", "unet", "controlnet")
    }
    reference = StableDiffusionControlNetImg2ImgPipeline(
        **parts,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    layouts = np.stack([conditioning(scene(i), CLASSES, "own", (32, 64)) for i in range(2)])
    control = torch.from_numpy(layouts).permute(0, 3, 1, 2)
    wanted = reference(
        prompt=[transfer.prompt] * 2,
        negative_prompt=[config.negative_prompt] * 2,
        image=torch.zeros(2, 3, 32, 64),
        control_image=control,
        latents=latents,
        height=32,
        width=64,
        strength=strength,
        num_inference_steps=20,
        guidance_scale=guidance,
        eta=1.0,
        controlnet_conditioning_scale=1.0,
        generator=[torch.Generator().manual_seed(s) for s in (7, 8)],
        output_type="latent",
    ).images
    generators = [torch.Generator().manual_seed(s) for s in (7, 8)]

    def draw() -> torch.Tensor:
        return torch.stack([torch.randn(4, 4, 8, generator=g) for g in generators])

    net = transfer.denoiser
    timesteps = transfer_levels(replace(config, steps=20), strength).decode
    before, net.guidance = net.guidance, guidance
    with torch.inference_mode():
        got = decode(
            latents,
            draw,
            timesteps,
            transfer.schedule.alphas_cumprod,
            net.on(control).guided(transfer.prompt),
        )
    net.guidance = before
    assert (got - wanted).abs().max() / wanted.abs().max() < 1e-5


def test_the_controlnet_without_inversion_equals_the_pipeline_of_diffusers(config):
    """The fourth cell of the ablation: image and layout, noise in the place of an inversion; the same noise
    goes through both."""
    from diffusers import DDIMScheduler, StableDiffusionControlNetImg2ImgPipeline

    made = load_scene_transfer(replace(config, method="controlnet_img2img", steps=20, strength=0.6), CLASSES)
    names = ("vae", "text_encoder", "tokenizer", "unet", "controlnet")
    reference = StableDiffusionControlNetImg2ImgPipeline(
        **{name: getattr(made.pipe, name) for name in names},
        scheduler=DDIMScheduler.from_config(made.pipe.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    one = scene(0)
    pixels = torch.from_numpy(one.image).permute(2, 0, 1)[None].float() / 255
    layout = torch.from_numpy(conditioning(one, CLASSES, "own", (32, 64))).permute(2, 0, 1)[None]
    wanted = reference(
        prompt=made.prompt,
        negative_prompt=config.negative_prompt,
        image=pixels,
        control_image=layout,
        height=32,
        width=64,
        strength=0.6,
        num_inference_steps=20,
        guidance_scale=9.0,
        eta=1.0,
        controlnet_conditioning_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images[0]
    got = made.transfer([one], [7])[0]
    assert levels_apart(got, np.rint(wanted * 255)) <= 1
    other = scene(0)
    other.annotation = scene(1).annotation
    assert levels_apart(made.transfer([other], [7])[0], got) > 1, "the layout acts"
    plain = load_scene_transfer(replace(made.config, method="img2img"), CLASSES)
    assert levels_apart(plain.transfer([one], [7])[0], got) > 1, "which plain img2img has not"
    inverted = load_scene_transfer(replace(made.config, method="stochastic", aligned=True), CLASSES)
    assert levels_apart(inverted.transfer([one], [7])[0], got) > 1


def test_inversion_without_a_controlnet_does_not_ask_it(config, monkeypatch):
    made = load_scene_transfer(replace(config, control_scale=0.0), CLASSES)
    got = made.transfer([scene(0)], [1])[0]
    other = scene(0)
    other.annotation = scene(1).annotation
    monkeypatch.setattr(made.pipe.controlnet, "forward", lambda *a, **k: pytest.fail("it was asked"))
    assert np.array_equal(made.transfer([other], [1])[0], got), "no layout acts"


@pytest.mark.parametrize("changes", METHODS, ids=lambda c: "-".join(map(str, c.values())) or "stochastic")
def test_an_image_depends_on_its_own_seed_only(config, changes):
    made = load_scene_transfer(replace(config, **{"steps": 5} | changes), CLASSES)
    scenes = [scene(0), scene(1), scene(2, (64, 32))]
    together = made.transfer(scenes, [3, 4, 5])
    assert [image.shape for image in together] == [(32, 64, 3), (32, 64, 3), (64, 32, 3)]
    assert all(image.dtype == np.uint8 and image.std() > 1 for image in together)
    for i, alone in enumerate(scenes):
        assert levels_apart(made.transfer([alone], [3 + i])[0], together[i]) <= 1
    again = made.transfer(scenes, [3, 4, 5])
    assert all(np.array_equal(a, b) for a, b in zip(again, together, strict=True))
    other = made.transfer(scenes[:1], [99])[0]
    assert levels_apart(other, together[0]) > 1, "another seed, another image"


def test_order_does_not_matter(transfer):
    scenes = [scene(i) for i in range(3)]
    forward, backward = transfer.transfer(scenes, [1, 2, 3]), transfer.transfer(scenes[::-1], [3, 2, 1])
    assert all(levels_apart(a, b) <= 1 for a, b in zip(forward, backward[::-1], strict=True))


def test_layout_prompt_strength_and_source_count(config, transfer):
    base = transfer.transfer([scene(0)], [1])[0]
    other = scene(0)
    other.annotation = scene(1).annotation
    assert levels_apart(transfer.transfer([other], [1])[0], base) > 1
    assert levels_apart(transfer.transfer([scene(0)], [1], 0.3)[0], base) > 1
    for changes in (
        {"domain": "fog", "strength": 0.9},
        {"negative_prompt": "night"},
        {"control_scale": 0.0},
        {"guidance": 1.0},
        {"eta": 0.0},
        {"suffix": ""},
    ):
        assert (
            levels_apart(
                load_scene_transfer(replace(config, **changes), CLASSES).transfer([scene(0)], [1])[0], base
            )
            > 0
        ), changes


def test_from_the_layout_alone_the_source_image_does_not_count(config):
    made = load_scene_transfer(replace(config, method="layout"), CLASSES)
    black = Scene("k", np.zeros((32, 64, 3), np.uint8), scene(0).annotation)
    assert np.array_equal(made.transfer([black], [1])[0], made.transfer([scene(0)], [1])[0])
    with pytest.raises(RecipeError, match="above 0"):
        load_scene_transfer(config, CLASSES).transfer([black], [1], 0.0)


def test_edit_friendly_replayed_under_the_source_prompt_is_the_autoencoder_alone(config):
    made = load_scene_transfer(
        replace(config, method="edit_friendly", prompt="driving in the daytime", strength=0.9, guidance=1.0),
        CLASSES,
    )
    pixels = torch.from_numpy(scene(0).image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        posterior = made.pipe.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(
            posterior.mean.shape, generator=torch.Generator().manual_seed(1)
        )
        wanted = made._image(latents[0] * made.pipe.vae.config.scaling_factor)
    assert levels_apart(made.transfer([scene(0)], [1])[0], wanted) <= 1


def test_odd_sizes_are_rounded_to_the_multiple(transfer):
    made = transfer.transfer([scene(0, (37, 61)), scene(1, (9, 20)), scene(2, (130, 33))], [1, 2, 3])
    assert [image.shape[:2] for image in made] == [(32, 48), (32, 64), (128, 32)]


def test_the_baseline_needs_no_controlnet_and_no_labels(config, tmp_path):
    plain = replace(config, method="img2img", weights=stable_diffusion(tmp_path / "sd"))
    image = scene(0).image
    assert load_scene_transfer(plain, CLASSES).transfer([Scene("k", image)], [1])[0].shape == (32, 64, 3)


def test_a_scene_without_labels_is_set_apart(transfer):
    good, bad = transfer.transfer([scene(0), Scene("k", scene(1).image)], [1, 2])
    assert isinstance(bad, ItemError) and "no label map" in str(bad)
    assert np.array_equal(good, transfer.transfer([scene(0)], [1])[0])


def test_what_is_not_finite_is_set_apart(config):
    made = load_scene_transfer(config, CLASSES)
    made.pipe.vae.decoder.conv_out.bias.data[0] = float("nan")
    (failed,) = made.transfer([scene(0)], [1])
    assert isinstance(failed, ItemError) and "NaN" in str(failed)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_other_predictions_are_turned_into_noise(config, transfer, weights, tmp_path, kind):
    """The step of diffusers under that prediction equals ours with the noise it amounts to."""
    from diffusers import DDIMScheduler

    folder = copy_of(weights, tmp_path, "scheduler/scheduler_config.json", prediction_type=kind)
    made = load_scene_transfer(replace(config, weights=folder), CLASSES)
    x, control = torch.randn(1, 4, 4, 8), torch.rand(1, 3, 32, 64)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(20)
    with torch.inference_mode():
        raw = transfer.denoiser.on(control).plain(transfer.prompt)(x, 451)
        noise = made.denoiser.on(control).plain(transfer.prompt)(x, 451)
        ours = decode(
            x,
            [],
            [451, 401],
            made.schedule.alphas_cumprod,
            lambda a, t: noise if t == 451 else torch.zeros_like(a),
            eta=0.0,
        )
        step = scheduler.step(raw, 451, x, eta=0.0).prev_sample
    abar = made.schedule.alphas_cumprod
    assert torch.allclose(ours, step * float(np.sqrt(abar[0] / abar[401])), atol=1e-5)


def test_a_network_with_guidance_as_an_input_takes_one_branch(config, weights, tmp_path, monkeypatch):
    """Distilled latent consistency models: the scale is embedded, and the negative prompt has no part."""
    from tests.diffusionkit import tiny_unet

    folder = shutil.copytree(weights, tmp_path / "distilled")
    torch.manual_seed(0)
    tiny_unet(time_cond_proj_dim=8).save_pretrained(folder / "unet")
    base = replace(config, weights=str(folder), profile="lcm")
    seen: list[int] = []
    made = load_scene_transfer(base, CLASSES)
    monkeypatch.setattr(
        made.pipe.unet,
        "forward",
        lambda x, *args, _forward=made.pipe.unet.forward, **kwargs: (
            seen.append(len(x)),
            _forward(x, *args, **kwargs),
        )[1],
    )
    first = made.transfer([scene(0)], [1])[0]
    assert seen and set(seen) == {1}
    assert np.array_equal(
        load_scene_transfer(replace(base, negative_prompt="snow"), CLASSES).transfer([scene(0)], [1])[0],
        first,
    )
    assert (
        levels_apart(
            load_scene_transfer(replace(base, guidance=7.0), CLASSES).transfer([scene(0)], [1])[0], first
        )
        > 0
    )


def test_half_precision_on_a_cpu(config, caplog):
    wanted = load_scene_transfer(config, CLASSES).transfer([scene(0)], [1])[0]
    half = load_scene_transfer(replace(config, precision="fp16"), CLASSES)
    assert half.precision == "fp32" and np.array_equal(half.transfer([scene(0)], [1])[0], wanted)
    assert "transfer.precision" in caplog.text
    brain = load_scene_transfer(replace(config, precision="bf16"), CLASSES)
    assert brain.pipe.unet.dtype == torch.bfloat16 and brain.pipe.vae.dtype == torch.float32
    assert 0 < np.abs(brain.transfer([scene(0)], [1])[0].astype(int) - wanted).mean() < 6


def test_a_prompt_that_is_too_long_is_said(config, caplog):
    load_scene_transfer(replace(config, prompt="driving " * 40), CLASSES)
    assert caplog.text.count("what follows is ignored") == 1


def test_a_controlnet_of_its_own_folder(config, weights, tmp_path):
    """Weights and ControlNet as published: two places."""
    apart = shutil.copytree(Path(weights) / "controlnet", tmp_path / "net")
    made = load_scene_transfer(replace(config, controlnet=str(apart)), CLASSES)
    assert np.array_equal(
        made.transfer([scene(0)], [1])[0], load_scene_transfer(config, CLASSES).transfer([scene(0)], [1])[0]
    )


def test_another_file_of_the_weights_by_its_variant(config, transfer, weights, tmp_path):
    """The published Stable Diffusion 1.5 has the U-Net twice: with averaged weights, and without."""
    folder = shutil.copytree(weights, tmp_path / "both")
    made = load_scene_transfer(config, CLASSES)
    made.pipe.unet.conv_out.weight.data.mul_(1.5)
    made.pipe.unet.save_pretrained(folder / "unet", variant="non_ema")
    other = load_scene_transfer(replace(config, weights=str(folder), variant="non_ema"), CLASSES)
    assert torch.equal(other.pipe.unet.conv_out.weight, made.pipe.unet.conv_out.weight)
    default = load_scene_transfer(replace(config, weights=str(folder)), CLASSES)
    assert torch.equal(default.pipe.unet.conv_out.weight, made.pipe.unet.conv_out.weight), "as the authors"
    plain = load_scene_transfer(replace(config, weights=str(folder), variant=""), CLASSES)
    assert torch.equal(plain.pipe.unet.conv_out.weight, transfer.pipe.unet.conv_out.weight)
    with pytest.raises(WeightsError, match="non_emma"):
        load_scene_transfer(replace(config, variant="non_emma"), CLASSES)


def copy_of(weights: str, tmp_path: Path, file: str, **changes) -> str:
    folder = shutil.copytree(weights, tmp_path / "changed")
    settings = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(settings))
    return str(folder)


def test_weights_that_cannot_serve_are_refused_in_one_sentence(config, weights, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    sd = stable_diffusion(tmp_path / "sd")
    broken = shutil.copytree(weights, tmp_path / "broken")
    (broken / "controlnet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nonsense")
    grey = copy_of(weights, tmp_path, "controlnet/config.json", cross_attention_dim=24)
    cases = [
        ({"weights": str(empty)}, "no model_index.json"),
        ({"weights": "nowhere at all"}, "neither a file or folder"),
        ({"weights": sd}, "no controlnet folder of its own"),
        ({"weights": sd, "controlnet": "nothing here"}, "neither a file or folder"),
        ({"weights": sd, "controlnet": weights + "/controlnet"}, "does not reduce pictures 2 times"),
        ({"weights": sd, "controlnet": str(empty)}, "is no ControlNet .it has no readable config.json"),
        (
            {"weights": stable_diffusion_xl(tmp_path / "xl"), "controlnet": weights + "/controlnet"},
            "StableDiffusionXLPipeline, which the transfer cannot use",
        ),
        ({"weights": str(broken)}, "damaged or not complete"),
        ({"weights": grey}, "do not fit the ControlNetModel"),
        ({"controlnet": "nobody/no-such-net"}, "hf download nobody/no-such-net"),
    ]
    for changes, message in cases:
        with pytest.raises(WeightsError, match=message) as caught:
            load_scene_transfer(replace(config, **changes), CLASSES)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiple": 12}, "multiples of 8"),
        ({"method": "edit_friendly", "eta": 0.0}, "transfer.eta = 0"),
        ({"method": "edit_friendly", "profile": "lcm"}, "cannot invert"),
        ({"strength": 0.01}, "no step"),
        ({"steps": 2000}, "1 to 1000"),
        ({"domain": "dusk"}, "dusk"),
        ({"size": 0}, "at least 1"),
        ({"weights": "train", "variant": "non_ema"}, "leave the variant out"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(config, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_scene_transfer(replace(config, **changes), CLASSES)


def test_a_lora_needs_its_package(config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="pip install peft"):
        load_scene_transfer(replace(config, lora=str(tmp_path)), CLASSES)


def test_palettes():
    one = scene(0)
    raw = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    assert np.array_equal(
        conditioning(one, CLASSES, "own", (32, 64)), paint(one.annotation, CLASSES, "own") / np.float32(255)
    )
    sky = Scene("k", one.image, np.full((32, 64), CLASSES.names.index("sky"), np.uint8))
    assert tuple(conditioning(sky, CLASSES, "ade20k", (16, 32))[0, 0] * 255) == pytest.approx(ADE20K[2])
    one.colours = raw
    assert np.array_equal(conditioning(one, CLASSES, "cityscapes", (32, 64)), raw / np.float32(255))
    assert np.array_equal(
        conditioning(Scene("k", one.image, None, raw), CLASSES, "cityscapes", (16, 32)),
        resize_area(raw, (16, 32)) / np.float32(255),
    )
    assert np.array_equal(
        conditioning(one, CLASSES, "own", (32, 64)), paint(one.annotation, CLASSES, "own") / np.float32(255)
    ), "the raw map is Cityscapes' palette"


def test_areas_are_averaged_and_small_pictures_grow():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 42, 3), dtype=np.uint8)
    thirds = image.reshape(10, 3, 14, 3, 3).mean(axis=(1, 3))
    assert np.abs(resize_area(image, (10, 14)) - thirds).max() <= 0.5001
    ragged = resize_area(image, (20, 28)).astype(float)
    assert abs(ragged.mean() - image.mean()) < 0.2, "a mean of areas keeps the mean"
    flat = np.full((30, 42, 3), 201, np.uint8)
    assert (resize_area(flat, (17, 23)) == 201).all() and (picture(flat, (64, 64)) == 201).all()
    assert set(np.unique(resize_area(image, (64, 64)))) <= set(np.unique(image)), (
        "colours of a layout that grows stay what they are"
    )
