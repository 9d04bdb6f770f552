"""Training of a layout-conditional generator: the recipe, exact resume, two workers, what cannot work, items
that are bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffadapt.core.artifact import Failure, Rows, Shard, scene_table
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Root
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.core.store import Store
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.run.drive import drive
from diffadapt.run.local import LocalRunner
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.scenes import Scenes
from diffadapt.systems.streets import Streets
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.worlds.config import AutoencoderFitConfig
from diffadapt.worlds.streets.batches import LayoutExamples, brought_to, crops, vocabulary
from diffadapt.worlds.streets.config import LayoutFitConfig, check_layout
from diffadapt.worlds.streets.fit import FitLayout
from diffadapt.worlds.streets.scenes import StreetScene
from diffadapt.worlds.streets.training import coloured_noise, train_layout_generator
from tests.workers import in_two_workers

VAE = AutoencoderFitConfig(steps=4, batch_size=4, channels=(8, 8), latent_channels=2, checkpoint_every=2)
TINY = LayoutFitConfig(
    vae=VAE,
    steps=4,
    batch_size=4,
    channels=(8, 16),
    text_width=16,
    heads=2,
    groups=8,
    flip=True,
    crop=(32, 48),
    variants=2,
    checkpoint_every=2,
    save_precision="fp32",
)


def examples(config=TINY, count=5):
    found = LayoutExamples(config.size, config.unit, config.crop, config.flip, config.seed)
    for i in range(count):
        scene = StreetScene("day", "pretrain", i)
        found.add(np.stack([scene.annotation] * 3, -1), [("driving in the daytime", scene.image)])
    return found


class Stop(Exception):
    pass


def stop_at(step):
    def on_report(done, total, scalars):
        assert total == TINY.vae.steps + TINY.steps
        if done == step:
            raise Stop

    return LocalReporter(on_report=on_report)


def same(a: Path, b: Path, tolerance: float = 0.0):
    names = sorted(p.relative_to(a) for p in a.glob("**/*.safetensors"))
    assert len(names) == 4 and names == sorted(p.relative_to(b) for p in b.glob("**/*.safetensors"))
    for name in names:
        one, two = load_file(a / name), load_file(b / name)
        assert one.keys() == two.keys()
        assert all((one[k] - two[k]).abs().max() <= tolerance for k in one), name


def parts_of(folder: Path):
    return lambda part: Checkpoints(str(folder / part))


def test_the_recipe_makes_a_pipeline_folder(tmp_path):
    from diffusers import StableDiffusionControlNetPipeline
    from PIL import Image

    execution = ExecutionConfig(runner="local", device="cpu")
    recipe = Streets(("day", "night"), 3, replace(TINY, crop=(0, 0)), execution=execution)
    root = Root(str(tmp_path / "root"))
    run = drive("streets", recipe, recipe.pipeline(), root, lambda: LocalRunner(execution))
    ((_, _, _, path),) = run.manifest()["nodes"]["generator"]["shards"]
    folder = root.store.join(path)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    control = Image.new("RGB", (64, 48))
    generator = torch.Generator().manual_seed(0)
    image = pipe(
        "driving at night, best quality",
        image=control,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=generator,
    ).images[0]
    assert image.size == (64, 48)
    assert (
        pipe.scheduler.config.steps_offset == 1
        and pipe.scheduler.config.set_alpha_to_one is False
        and pipe.scheduler.config.clip_sample is False
    )
    assert pipe.tokenizer.unk_token_id not in pipe.tokenizer("driving at night, best quality").input_ids
    card = (Path(folder) / "README.md").read_text()
    assert (
        "diffadapt run zodi/weights" in card
        and "| road | 128, 64, 128 |" in card
        and "6 labelled scenes, 6 examples" in card
    )
    texts = [p.read_text() for p in Path(folder).rglob("*.json")]
    assert len(texts) > 6 and not any(str(tmp_path) in text for text in texts)


@pytest.mark.parametrize("stop", [3, 7])
def test_an_interrupted_training_ends_with_the_same_weights(stop, tmp_path):
    """Within the autoencoder's training, and within the generator's, where the finished autoencoder is not
    trained again."""
    data = examples()
    whole = train_layout_generator(data, TINY, LocalReporter(), parts_of(tmp_path / "a"), tmp_path / "whole")
    with pytest.raises(Stop):
        train_layout_generator(data, TINY, stop_at(stop), parts_of(tmp_path / "b"), tmp_path / "none")
    seen = []
    resumed = train_layout_generator(
        data,
        TINY,
        LocalReporter(on_report=lambda step, total, scalars: seen.append(step)),
        parts_of(tmp_path / "b"),
        tmp_path / "resumed",
    )
    same(tmp_path / "whole", tmp_path / "resumed")
    assert seen == list(range(stop, 9))
    assert resumed["loss"] == whole["loss"] and resumed["reconstruction_psnr"] == whole["reconstruction_psnr"]


def _work(rank, folder):
    train_layout_generator(examples(), TINY, DistributedReporter(), lambda part: None, Path(folder) / "two")


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path):
    in_two_workers(_work, tmp_path)
    train_layout_generator(examples(), TINY, LocalReporter(), lambda part: None, tmp_path / "one")
    same(tmp_path / "one", tmp_path / "two", tolerance=2e-4)


def test_a_mirrored_crop_of_latents_is_that_of_the_mirrored_crop():
    """Image, colour map and latents of an example are cut and mirrored alike."""
    from diffadapt.worlds.streets.training import _cut

    picture = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)

    def as_latents(image):
        return torch.from_numpy(np.ascontiguousarray(image[::2, ::2])).permute(2, 0, 1).half()

    latents = [
        (as_latents(picture), as_latents(picture), as_latents(picture[:, ::-1]), as_latents(picture[:, ::-1]))
    ]
    for flip in (False, True):
        cut = crops([picture], [(2, 4)], [flip], (4, 6))
        mean, _ = _cut(latents, [0], [(2, 4)], [flip], 2, (2, 3))
        assert torch.equal(mean[0].half(), as_latents(cut[0]))


def test_low_noise_has_unit_variance_and_is_smooth():
    white, low = (
        coloured_noise((64, 3, 16, 16), amplitude, torch.Generator().manual_seed(0))
        for amplitude in (0.0, 2.0)
    )
    for noise in (white, low):
        assert float(noise.var()) == pytest.approx(1.0, abs=0.1) and float(noise.mean()) == pytest.approx(
            0.0, abs=0.1
        )
    means = [float(noise.mean((2, 3)).var()) for noise in (white, low)]
    assert means[0] < 0.01 and means[1] > 0.15


def test_latents_get_the_spread_that_was_asked_for(tmp_path):
    from diffusers import AutoencoderKL

    from diffadapt.worlds.vae import encode

    data = examples(replace(TINY, crop=(0, 0), flip=False))
    config = replace(TINY, crop=(0, 0), flip=False, steps=1, latent_scale=0.5)
    train_layout_generator(data, config, LocalReporter(), lambda part: None, tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    mean, std = encode(vae, np.stack(data.images), torch.device("cpu"))
    z = (
        mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    ) * vae.config.scaling_factor
    assert float(z.var(dim=(0, 2, 3)).mean()) == pytest.approx(0.25, abs=0.03)


def test_examples_are_resized_and_must_fit_their_crop():
    assert (
        brought_to(360, 480, 240, 16) == (240, 320)
        and brought_to(361, 481, 0, 16) == (368, 480)
        and brought_to(5, 5, 0, 16) == (16, 16)
    )
    data = LayoutExamples(48, 8, (32, 64))
    data.add(np.zeros((96, 128, 3), np.uint8), [("a", np.full((96, 128, 3), 7, np.uint8))])
    assert data.images[0].shape == (48, 64, 3) and data.images[0].max() == 7 and data.shape == (32, 64)
    data.repeat(2)
    assert len(data) == 3 and data.images[2] is data.images[0]
    for place in ((0.0, 0.0), (0.999, 0.999)):
        y, x = data.corner(0, np.array(place), 8)
        assert y % 8 == 0 and y + 32 <= 48 and x == 0
    with pytest.raises(RecipeError, match="larger than an image of 48x64"):
        _ = replace(data, crop=(56, 64)).shape
    data.add(np.zeros((48, 96, 3), np.uint8), [("a", np.zeros((48, 96, 3), np.uint8))])
    with pytest.raises(RecipeError, match="2 sizes"):
        _ = replace(data, crop=(0, 0)).shape
    assert vocabulary(["Driving at night", "a 42"], ", best quality") == (
        "2",
        "4",
        "a",
        "at",
        "best",
        "driving",
        "night",
        "quality",
    )


def _plan(stage, tmp_path, **scenes):
    data = {
        "a": SceneConfig("embedded:streets", layout="streets", split="pretrain", condition="day", limit=4)
    } | scenes
    nodes = (
        *(Node(name, Scenes(config, name)) for name, config in data.items()),
        Node("fit", stage, tuple(data)),
    )
    return Pipeline(nodes, (), (), {n.name: n.name for n in nodes}).plan(Store(str(tmp_path)))["fit"]


def test_what_cannot_work_is_said_while_planning(tmp_path):
    fit = FitLayout(TINY, builtin("streets"), ("driving in the daytime",), ("dusk",))
    assert _plan(fit, tmp_path).shards[0].shard.items == 4
    for wrong, words in (
        (replace(fit, captions=()), "0 captions"),
        (replace(fit, captions=("",)), "give each set one"),
        (replace(fit, appearances=("dust",)), "'dust'.*dusk"),
        (replace(fit, classes=type(fit.classes)()), "class table"),
        (replace(fit, config=replace(TINY, channels=(8,))), "two levels"),
        (replace(fit, config=replace(TINY, channels=(8, 12))), "groups"),
        (replace(fit, config=replace(TINY, crop=(30, 48))), "multiples of 4"),
        (replace(fit, config=replace(TINY, text_width=15)), "text_width"),
        (replace(fit, config=replace(TINY, vae=replace(VAE, channels=(8, 16)))), "multiple of 8"),
    ):
        with pytest.raises(RecipeError, match=words):
            _plan(wrong, tmp_path)
    check_layout(LayoutFitConfig())
    assert (
        _plan(replace(fit, config=replace(TINY, checkpoint_every=9)), tmp_path).family
        == _plan(fit, tmp_path).family
    )
    assert _plan(replace(fit, appearances=()), tmp_path).family != _plan(fit, tmp_path).family
    with pytest.raises(RecipeError, match="no condition 'dawn'"):
        Streets(("dawn",)).pipeline()


def test_relit_copies_are_trained_on_and_bad_scenes_are_named(tmp_path):
    """A scene whose image is damaged and one without a label map are left out, named; the others are shown by
    day and at dusk."""
    from transformers import AutoTokenizer

    scenes = [StreetScene("day", "train", i) for i in range(4)]
    images = [encode_png(s.image) for s in scenes]
    maps: list = [encode_png(s.annotation) for s in scenes]
    images[1], maps[2] = b"no image", None
    rows = Rows(
        scene_table([f"source/0/{i}" for i in range(4)], images, maps),
        [Failure("source/0/9", "It was lost before.")],
    )
    file = InputFile("source", "d", "p", Shard("source-0", {}, (), 4))
    (tmp_path / "out").mkdir()
    job = FitJob(
        "generator",
        lambda n: [file],
        None,
        str(tmp_path / "ck"),
        str(tmp_path / "out"),
        WorkContext("cpu"),
        LocalReporter(),
        lambda f: rows,
        files=[file],
    )
    stage = FitLayout(
        replace(TINY, steps=1, vae=replace(VAE, steps=1)),
        builtin("streets"),
        ("driving in the daytime",),
        ("dusk",),
    )
    metrics = stage.fit(job)
    assert metrics["scenes"] == 2 and metrics["examples"] == 2 * (2 + 2)
    assert [key for key, _ in metrics["quarantined"]] == ["source/0/9", "source/0/1", "source/0/2"]
    assert "no label map" in metrics["quarantined"][2][1]
    assert {"dusk", "daytime", "best", "worst"} <= set(
        AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer").get_vocab()
    )
    assert "no image of these appearances was seen" in (tmp_path / "out" / "README.md").read_text()
    examples, _, _ = stage._examples(job)
    assert examples.captions[:4] == ["driving in the daytime"] * 2 + ["driving at dusk"] * 2
    assert examples.images[0] is examples.images[1] and not np.array_equal(
        examples.images[2], examples.images[3]
    )
    rows = Rows(scene_table(["source/0/2"], images[2:3], [None]), [])
    with pytest.raises(DataError, match="no scene with a label map.*source/0/2"):
        stage.fit(job)
