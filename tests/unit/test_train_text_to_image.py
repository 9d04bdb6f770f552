"""Training of a text-to-image model from nothing: the recipe, exact resume, settings that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.glyphs import Glyphs
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.optim import warm_cosine
from diffadapt.train.reporter import LocalReporter
from diffadapt.worlds.batches import CaptionedImages, Shuffled
from diffadapt.worlds.config import AutoencoderFitConfig, ClipFitConfig, TextToImageFitConfig
from diffadapt.worlds.contrastive import train_clip
from diffadapt.worlds.glyphs.captions import vocabulary
from diffadapt.worlds.glyphs.drawing import GlyphConfig, GlyphSet
from diffadapt.worlds.glyphs.training import train_text_to_image, zero_terminal_snr
from diffadapt.worlds.vae import train_autoencoder

GLYPHS = GlyphConfig(fonts=("pillow",), examples=40)
CLIP = ClipFitConfig(steps=4, batch_size=8, width=16, layers=1, heads=2, max_words=16, checkpoint_every=2)
VAE = AutoencoderFitConfig(steps=4, batch_size=8, channels=(8, 8), checkpoint_every=2)
UNET = TextToImageFitConfig(steps=4, batch_size=8, channels=(8, 16), heads=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def data():
    return CaptionedImages(*GlyphSet(GLYPHS).arrays())


@pytest.fixture(scope="module")
def parts(data, tmp_path_factory):
    """A CLIP and an autoencoder folder."""
    root = tmp_path_factory.mktemp("parts")
    train_clip(data, vocabulary(), CLIP, LocalReporter(), None, root / "clip")
    train_autoencoder(data, VAE, LocalReporter(), None, root / "vae")
    return str(root / "clip"), str(root / "vae")


class Stop(Exception):
    pass


def stop_at(step):
    def on_report(done, total, scalars):
        if done == step:
            raise Stop

    return LocalReporter(on_report=on_report)


def same(a, b, pattern="**/*.safetensors"):
    names = sorted(p.relative_to(a) for p in a.glob(pattern))
    assert names and names == sorted(p.relative_to(b) for p in b.glob(pattern))
    for name in names:
        one, two = load_file(a / name), load_file(b / name)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), name


def test_the_recipe_makes_a_pipeline_folder(tmp_path):
    from diffusers import StableDiffusionPipeline

    recipe = Glyphs(GLYPHS, CLIP, VAE, UNET, execution=ExecutionConfig(runner="local", device="cpu"))
    root = Root(str(tmp_path / "root"))
    run = drive("glyphs", recipe, recipe.pipeline(), root, lambda: LocalRunner(recipe.execution))
    ((_, _, _, path),) = run.manifest()["nodes"]["generator"]["shards"]
    folder = root.store.join(path)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a seven", num_inference_steps=2, guidance_scale=4.0).images[0]
    assert image.size == (16, 16)
    card = (Path(folder) / "README.md").read_text()
    assert "Pillow's default" in card and "diffadapt export last --what generator" in card
    texts = [p.read_text() for p in Path(folder).rglob("*.json")]
    assert len(texts) > 5 and not any(str(tmp_path) in text for text in texts)
    again = drive(
        "glyphs", recipe, recipe.pipeline(), root, lambda: pytest.fail("everything is there already")
    )
    assert again.manifest()["nodes"] == run.manifest()["nodes"]


def test_digests_follow_fonts_and_settings(tmp_path):
    root = Root(str(tmp_path / "root"))

    def digests(recipe):
        return {name: node.shards[0].digest for name, node in recipe.pipeline().plan(root.store).items()}

    base = Glyphs(GLYPHS, CLIP, VAE, UNET)
    faster = digests(replace(base, generator=replace(UNET, checkpoint_every=9)))
    assert faster == digests(base)
    longer = digests(replace(base, clip=replace(CLIP, steps=5)))
    assert longer["clip"] != digests(base)["clip"] and longer["generator"] != digests(base)["generator"]
    assert longer["vae"] == digests(base)["vae"]


@pytest.mark.parametrize("what", ["clip", "vae", "unet"])
def test_an_interrupted_training_ends_with_the_same_weights(what, data, parts, tmp_path):
    def train(reporter, checkpoints, out):
        if what == "clip":
            return train_clip(data, vocabulary(), CLIP, reporter, checkpoints, out)
        if what == "vae":
            return train_autoencoder(data, VAE, reporter, checkpoints, out)
        return train_text_to_image(data, *parts, UNET, reporter, checkpoints, out)

    train(LocalReporter(), Checkpoints(str(tmp_path / "a")), tmp_path / "whole")
    with pytest.raises(Stop):
        train(stop_at(3), Checkpoints(str(tmp_path / "b")), tmp_path / "none")
    metrics = train(LocalReporter(), Checkpoints(str(tmp_path / "b")), tmp_path / "resumed")
    assert metrics["resumed_from"] == 2
    same(tmp_path / "whole", tmp_path / "resumed")


def test_scaled_latents_have_unit_spread(data, parts):
    from diffusers import AutoencoderKL

    from diffadapt.worlds.vae import encode

    vae = AutoencoderKL.from_pretrained(parts[1])
    mean, std = encode(vae, data.images, torch.device("cpu"))
    z = (
        mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    ) * vae.config.scaling_factor
    assert float(z.std(dim=(0, 2, 3)).pow(2).mean()) == pytest.approx(1.0, abs=0.1)


def test_the_last_step_is_pure_noise():
    scheduler = zero_terminal_snr()
    assert float(scheduler.alphas_cumprod[-1]) == 0.0
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999


def test_two_workers_share_the_batches_of_one():
    class Rank(LocalReporter):
        def __init__(self, rank):
            super().__init__()
            self.rank, self.world_size = rank, 2

    one = Shuffled(20, 8, 0, LocalReporter())
    for step in (0, 2, 5):
        halves = [Shuffled(20, 8, 0, Rank(r)).indices(step).tolist() for r in range(2)]
        assert halves[0] + halves[1] == one.indices(step).tolist()
    epoch = [i for step in range(5) for i in one.indices(step)]
    assert sorted(epoch[:20]) == sorted(epoch[20:]) == list(range(20))
    with pytest.raises(RecipeError, match="evenly"):
        Shuffled(20, 7, 0, Rank(0))


def test_rate_rises_then_falls_to_nothing():
    rates = [warm_cosine(step, 1.0, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_settings_that_do_not_fit(data, parts, tmp_path):
    with pytest.raises(RecipeError, match="multiples of 8"):
        train_autoencoder(data, replace(VAE, channels=(8, 12)), LocalReporter(), None, tmp_path)
    with pytest.raises(RecipeError, match="halved"):
        train_autoencoder(data, replace(VAE, channels=(8,) * 6), LocalReporter(), None, tmp_path)
    for channels in ((8,), (8, 12), (8, 8, 8, 8, 8)):
        with pytest.raises(RecipeError, match="channels"):
            train_text_to_image(
                data, *parts, replace(UNET, channels=channels), LocalReporter(), None, tmp_path
            )
    with pytest.raises(RecipeError, match="even"):
        Glyphs(replace(GLYPHS, size=9)).pipeline().plan(Root(str(tmp_path)).store)
