"""Class-conditional synthesis: against the reference loop, and the properties that a user relies on."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors.torch import load_file

from diffadapt.core.errors import DataError, ItemError, WeightsError
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.generators.dit import Generator, load_generator, to_uint8
from diffadapt.diffusion.samplers import sample
from diffadapt.diffusion.schedule import Schedule
from diffadapt.models.diffusers_folder import save_component, save_scheduler, write_details, write_model_index
from diffadapt.models.dit import build_dit, guided, make_exact, save_dit
from diffadapt.models.importers.dit import dit_from_original, read_checkpoint

SDA = Path(__file__).resolve().parents[1] / "golden" / "sda"


def tiny_dit(channels=1, size=4, classes=3, sigma=True, seed=0):
    torch.manual_seed(seed)
    model = build_dit(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        in_channels=channels,
        sample_size=size,
        patch_size=2,
        out_channels=channels * (2 if sigma else 1),
        num_embeds_ada_norm=classes,
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.requires_grad_(False).eval()


def tiny_vae():
    torch.manual_seed(1)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.18215,
    )
    return vae.requires_grad_(False).eval()


CONFIG = SynthConfig(steps=4, batch_size=8)


def test_ancestral_loop_equals_the_reference():
    state, metadata = read_checkpoint(SDA / "dit_tiny_weights.safetensors")
    model = dit_from_original(state, json.loads(metadata["config"]))
    loop = {
        k.removeprefix("loop."): v
        for k, v in load_file(SDA / "dit_loop.safetensors").items()
        if k.startswith("loop.")
    }
    network = guided(lambda x, t, y: model(x, t, y).sample, loop["y"], 1.0, 20, 3)
    steps = len(loop["timestep_map"])
    found = sample(network, loop["z"], Schedule.linear(), "ddpm", steps, iter(loop["step_noise"]), clip=False)
    wanted = loop["samples"][-1]  # values of several hundred, whose last bits depend on the processor
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_network_equals_the_reference_forward():
    state, metadata = read_checkpoint(SDA / "dit_tiny_weights.safetensors")
    model = dit_from_original(state, json.loads(metadata["config"]))
    f = load_file(SDA / "dit_loop.safetensors")
    found = model(f["forward.x"], f["forward.t"], f["forward.y"]).sample
    assert float((found - f["forward.out"]).abs().max()) < 1e-5


def test_stock_diffusers_differs_so_the_mending_matters():
    model = tiny_dit()
    x, t, y = torch.randn(2, 1, 4, 4), torch.tensor([999, 500]), torch.tensor([0, 1])
    exact = model(x, t, y).sample
    model.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 1
    assert float((model(x, t, y).sample - exact).abs().max()) > 1e-3


def test_published_dit_xl_has_675_million_parameters():
    with torch.device("meta"):
        stock = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
        before = sum(p.numel() for p in stock.parameters())
        after = sum(p.numel() for p in make_exact(stock).parameters())
    # The authors count 675,129,632, of which 256 x 1152 are the fixed position table, a buffer here.
    assert after == 675_129_632 - 256 * 1152
    assert before - after == 27 * (257 * 1152 + 1153 * 1152 + 1001 * 1152)


def test_an_image_depends_on_its_own_seed_and_label_only():
    generator = Generator(tiny_dit(), Schedule.linear())
    together = generator.sample([0, 1, 2, 0, 1], [5, 6, 7, 8, 9], CONFIG)
    turned = generator.sample([1, 0, 2, 1, 0], [9, 8, 7, 6, 5], SynthConfig(steps=4, batch_size=2))
    assert together.dtype == torch.uint8 and together.shape == (5, 1, 4, 4)
    assert int((together.int() - turned.flip(0).int()).abs().max()) <= 1
    assert not torch.equal(together[0], generator.sample([1], [5], CONFIG)[0])
    assert not torch.equal(together[0], generator.sample([0], [6], CONFIG)[0])


def test_guidance_one_never_computes_the_null_half():
    seen = []

    def model(x, t, y):
        seen.append(y.tolist())
        return x.repeat(1, 2, 1, 1)

    x, t = torch.randn(2, 4, 4, 4), torch.tensor([1, 1])
    guided(model, torch.tensor([0, 1]), 1.0, 9, 3)(x, t)
    guided(model, torch.tensor([0, 1]), 1.5, 9, 3)(x, t)
    assert seen == [[0, 1], [0, 1, 9, 9]]


@pytest.mark.parametrize("channels", [3, 4])
def test_guidance_acts_on_the_chosen_channels_only(channels):
    outputs = torch.randn(4, 8, 4, 4)
    network = guided(lambda x, t, y: outputs, torch.tensor([0, 1]), 2.5, 9, channels)
    found = network(torch.zeros(2, 4, 4, 4), torch.tensor([1, 1]))
    conditional, null = outputs.chunk(2)
    expected = null[:, :channels] + 2.5 * (conditional[:, :channels] - null[:, :channels])
    torch.testing.assert_close(found[:, :channels], expected)
    assert torch.equal(found[:, channels:], conditional[:, channels:])


def test_guide_channels_setting_reaches_the_network():
    generator = Generator(tiny_dit(channels=4, classes=2), Schedule.linear(), tiny_vae())
    first = generator.sample([0], [1], SynthConfig(steps=3, guidance=4.0))
    every = generator.sample([0], [1], SynthConfig(steps=3, guidance=4.0, guide_channels="all"))
    assert first.shape == (1, 3, 8, 8) and not torch.equal(first, every)


def test_the_learned_variance_is_used():
    model = tiny_dit()
    generator = Generator(model, Schedule.linear())
    before = generator.sample([0, 1], [1, 2], CONFIG)
    model.proj_out_2.bias.view(2, 2, 2)[..., 1] += 0.9  # (patch, patch, out channel): the variance channel
    after = generator.sample([0, 1], [1, 2], CONFIG)
    assert not torch.equal(before, after)


def test_latents_are_scaled_and_decoded_in_slices(monkeypatch):
    vae, seen = tiny_vae(), []
    generator = Generator(tiny_dit(channels=4), Schedule.linear(), vae)
    monkeypatch.setattr("diffadapt.diffusion.generators.dit.DECODE_SLICE", 2)
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z: seen.append(len(z)) or decode(z))
    latents = torch.randn(5, 4, 4, 4)
    found = generator._decode(latents)
    assert seen == [2, 2, 1]
    torch.testing.assert_close(found, decode(latents / 0.18215).sample, atol=1e-5, rtol=1e-5)


def test_sampling_that_diverges_names_the_positions():
    model = tiny_dit()
    model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight[2] = float("nan")
    with pytest.raises(ItemError, match=r"positions \[1, 3\]"):
        Generator(model, Schedule.linear()).sample([0, 2, 1, 2], [1, 2, 3, 4], CONFIG)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_a_data_error(label):
    # index 3 exists in the table: it is the null class, and must not be reachable as a label
    with pytest.raises(DataError, match=f"Label {label} "):
        Generator(tiny_dit(), Schedule.linear()).sample([0, label], [1, 2], CONFIG)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_reduced_precision_stays_close(precision):
    exact = Generator(tiny_dit(), Schedule.linear()).sample([0, 1, 2], [1, 2, 3], CONFIG)
    found = Generator(tiny_dit(), Schedule.linear(), precision=precision).sample([0, 1, 2], [1, 2, 3], CONFIG)
    assert float((exact.float() - found.float()).abs().mean()) < 6


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_deterministic_samplers_draw_the_start_only(sampler):
    generator = Generator(tiny_dit(), Schedule.linear())
    config = SynthConfig(steps=4, sampler=sampler)
    assert torch.equal(generator.sample([0], [1], config), generator.sample([0], [1], config))
    assert not torch.equal(generator.sample([0], [1], config), generator.sample([0], [1], CONFIG))


def test_quantisation():
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 3.0])
    assert to_uint8(x, "truncate").tolist() == [0, 0, 64, 128, 255, 255]
    assert to_uint8(x, "round").tolist() == [0, 0, 64, 128, 255, 255]
    assert (
        to_uint8(torch.tensor([-1 + 1 / 255]), "truncate").item(),
        to_uint8(torch.tensor([-1 + 1 / 255]), "round").item(),
    ) == (1, 0)


def folder(path, model, details=None, vae=None, names=None):
    save_dit(model, path / "transformer")
    save_scheduler(path, learn_sigma=True, clip_sample=True)
    write_model_index(path, "DiTPipeline", has_vae=vae is not None, class_names=names)
    if vae is not None:
        save_component(vae, path / "vae")
    if details:
        write_details(path, details)
    return str(path)


def test_a_saved_folder_gives_the_same_images(tmp_path):
    model = tiny_dit()
    generator = load_generator(folder(tmp_path, model, names=["a", "b", "c"]))
    assert (generator.num_classes, generator.image_size, generator.channels) == (3, 4, 1)
    assert generator.class_names == ["a", "b", "c"] and generator.revision.startswith("sha256:")
    assert torch.equal(
        generator.sample([0, 2], [3, 4], CONFIG),
        Generator(model, Schedule.linear()).sample([0, 2], [3, 4], CONFIG),
    )
    stock = DiTTransformer2DModel.from_pretrained(str(tmp_path / "transformer"), low_cpu_mem_usage=False)
    assert len({p.data_ptr() for p in stock.parameters()}) > len(
        list(model.parameters())
    )  # readable, unshared, by diffusers alone


def test_native_size_is_upsampled(tmp_path):
    generator = load_generator(folder(tmp_path, tiny_dit(), {"upsample": 2, "upsample_filter": "bilinear"}))
    image = generator.sample([0], [1], CONFIG)
    small = load_generator(folder(tmp_path / "small", tiny_dit())).sample([0], [1], CONFIG)
    assert generator.image_size == 8 and image.shape == (1, 1, 8, 8)
    assert abs(image.float().mean() - small.float().mean()) < 8


def test_folder_with_vae(tmp_path):
    generator = load_generator(folder(tmp_path, tiny_dit(channels=4), vae=tiny_vae()))
    assert (generator.image_size, generator.channels) == (8, 3)


def test_a_latent_network_without_vae_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="4 latent channels"):
        load_generator(folder(tmp_path, tiny_dit(channels=4)))


def test_a_missing_transformer_is_a_weights_error(tmp_path):
    write_model_index(tmp_path, "DiTPipeline")
    with pytest.raises(WeightsError, match="No DiTTransformer2DModel could be loaded"):
        load_generator(str(tmp_path))


def test_differing_embedders_are_refused(tmp_path):
    path = folder(tmp_path, tiny_dit())
    stock = DiTTransformer2DModel.from_pretrained(path, subfolder="transformer", low_cpu_mem_usage=False)
    with torch.no_grad():
        stock.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.bias += 1
    with pytest.raises(WeightsError, match="different embedders"):
        make_exact(stock)


def test_guidance_without_a_null_class_is_refused():
    model = tiny_dit()
    embedder = model.transformer_blocks[0].norm1.emb.class_embedder
    embedder.embedding_table = torch.nn.Embedding(3, 16)
    with pytest.raises(WeightsError, match="no null class"):
        Generator(model, Schedule.linear()).sample([0], [1], SynthConfig(steps=2, guidance=2.0))


def test_a_compiled_network_keeps_one_shape_and_the_same_images(monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda m, **kwargs: compile_(m, backend="eager", fullgraph=True, **kwargs)
    )
    config = SynthConfig(steps=3, batch_size=2)
    expected = Generator(tiny_dit(), Schedule.linear()).sample([0, 1, 2], [1, 2, 3], config)
    generator = Generator(tiny_dit(), Schedule.linear(), compile=True)
    shapes = []
    generator.transformer.pos_embed.register_forward_pre_hook(lambda m, args: shapes.append(args[0].shape[0]))
    assert torch.equal(generator.sample([0, 1, 2], [1, 2, 3], config), expected)
    assert set(shapes) == {2}  # the last image travels with a copy of itself


def test_one_pass_of_the_embedder_serves_all_blocks():
    model = tiny_dit()
    calls = []
    model.transformer_blocks[0].norm1.emb.register_forward_pre_hook(lambda m, args: calls.append(1))
    x, t, y = (
        torch.randn(2, *Generator(model, Schedule.linear())._latent_shape),
        torch.tensor([3, 9]),
        torch.tensor([0, 1]),
    )
    trained = model(x, t, y).sample  # with gradients each block asks for itself
    assert len(calls) == len(model.transformer_blocks) + 1  # and the last layer once more
    calls.clear()
    with torch.no_grad():
        assert torch.equal(model(x, t, y).sample, trained)
        assert len(calls) == 2, "the first block and the last layer"
        model.transformer_blocks[0].norm1.emb.timestep_embedder.linear_2.bias.add_(1.0)
        assert not torch.equal(model(x, t, y).sample, trained), "an embedding of an earlier pass is not kept"
