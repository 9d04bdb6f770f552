"""Training of generators: exact resume, batches that do not depend on workers, losses, saved folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel

from diffadapt.core.errors import DataError, RecipeError, TrainingError
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.diffusion.generators.dit import load_generator
from diffadapt.diffusion.generators.upsample import upsample
from diffadapt.diffusion.network import load_unconditional
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import q_sample
from diffadapt.models.diffusers_folder import save_component
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.config import DiffusionFitConfig
from diffadapt.train.diffusion import train_diffusion
from diffadapt.train.diffusion_batches import ArrayImages, BatchPlan, DiffusionBatches
from diffadapt.train.diffusion_loss import diffusion_loss, vlb_bits
from diffadapt.train.diffusion_network import build_denoiser
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun
from tests.workers import in_two_workers

UNET = DiffusionFitConfig(
    architecture="unet",
    steps=6,
    batch_size=8,
    lr=2e-3,
    warmup_steps=2,
    ema_decay=0.9,
    channels=(8, 16),
    layers_per_block=1,
    attention_levels=(1,),
    checkpoint_every=3,
    sample_every=3,
)
DIT = replace(UNET, architecture="dit", channels=(2, 8, 2), patch_size=2)
CPU = torch.device("cpu")


def stripes(count=20, size=8, channels=1):
    """Class 0: horizontal, class 1: vertical stripes, with a random phase."""
    rng = np.random.default_rng(0)
    ramp = (np.arange(size)[None] + rng.integers(0, 2, (count, 1))) % 2 * 255
    images = np.broadcast_to(ramp[:, :, None], (count, size, size)).copy()
    labels = np.arange(count) % 2
    images[labels == 1] = images[labels == 1].transpose(0, 2, 1)
    return ArrayImages(np.repeat(images[..., None], channels, axis=3).astype(np.uint8), labels)


class ListImages:
    def __init__(self, source):
        self.source, self.reads = source, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads += 1
        return self.source[index]


def batches(source, micro=8, rank=0, world=1, flip=True, **kwargs):
    plan = BatchPlan(seed=3, batch_size=8, rank=rank, world=world, micro=micro, label_dropout=0.3, flip=flip)
    kwargs = {"device": CPU, "timesteps": 1000, "num_classes": 2, **kwargs}
    return DiffusionBatches(source, plan, **kwargs)


def weights(folder, name):
    from safetensors.torch import load_file

    return load_file(folder / name / "diffusion_pytorch_model.safetensors")


def test_a_global_batch_is_the_same_on_any_number_of_workers_and_parts():
    source = stripes()
    whole = batches(source)(5)
    halves = [batches(source, micro=2, rank=r, world=2)(5, part) for r in (0, 1) for part in (0, 1)]
    for name in ("x0", "noise", "t", "y"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(b, name) for b in halves])), name
    # read in the background, out of order, or again: the same
    other = batches(ListImages(source))
    other(0)
    assert torch.equal(other(5).x0, whole.x0) and torch.equal(other(5).x0, whole.x0)


def test_every_epoch_visits_every_image_once_in_another_order():
    b = batches(stripes(count=16))
    first, second = b.indices(0, 0) + b.indices(1, 0), b.indices(2, 0) + b.indices(3, 0)
    assert sorted(first) == sorted(second) == list(range(16)) and first != second


def test_labels_are_dropped_to_the_null_class_at_the_rate_asked_for():
    plan = BatchPlan(seed=0, batch_size=2000, rank=0, world=1, micro=2000, label_dropout=0.1)
    batch = DiffusionBatches(stripes(size=2), plan, device=CPU, timesteps=1000, num_classes=2)(0)
    assert abs((batch.y == 2).float().mean().item() - 0.1) < 0.03
    assert abs(batch.t.float().mean().item() - 499.5) < 25 and abs(batch.noise.std().item() - 1) < 0.05


def test_dropout_is_drawn_once_per_image_and_no_block_draws_its_own():
    model = build_denoiser(DIT, 1, 8, 2).train()
    torch.nn.init.normal_(model.core.proj_out_2.weight)
    for block in model.core.transformer_blocks:
        torch.nn.init.normal_(block.norm1.linear.weight)
    x, t, y = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 0, 1])
    assert torch.equal(model(x, t, y), model(x, t, y))
    assert not torch.equal(model(x, t, y), model(x, t, torch.full_like(y, 2)))


@pytest.mark.parametrize(("config", "classes"), [(UNET, None), (DIT, 2)])
def test_networks_start_by_predicting_zero(config, classes):
    model = build_denoiser(config, 1, 8, classes)
    out = model(
        torch.randn(2, 1, 8, 8), torch.tensor([5, 900]), None if classes is None else torch.tensor([0, 2])
    )
    assert out.shape == (2, 1, 8, 8) and float(out.detach().abs().max()) == 0.0


@pytest.mark.parametrize(("config", "classes", "part"), [(UNET, None, "unet"), (DIT, 2, "transformer")])
def test_resume_is_exact(tmp_path, config, classes, part):
    source = stripes()
    train_diffusion(source, config, classes, TrainingRun(LocalReporter()), tmp_path / "straight")

    class Stop(Exception):
        pass

    def stop(step, total, scalars):
        if step == 4:
            raise Stop

    checkpoints = Checkpoints(str(tmp_path / "ckpt"))
    with pytest.raises(Stop):
        train_diffusion(
            source,
            config,
            classes,
            TrainingRun(LocalReporter(on_report=stop), checkpoints),
            tmp_path / "broken",
        )
    assert checkpoints.steps() == [3]
    metrics = train_diffusion(
        source, config, classes, TrainingRun(LocalReporter(), checkpoints), tmp_path / "broken"
    )
    assert metrics["resumed_from"] == 3
    straight, broken = weights(tmp_path / "straight", part), weights(tmp_path / "broken", part)
    assert straight.keys() == broken.keys() and all(torch.equal(straight[k], broken[k]) for k in straight)


def test_accumulation_gives_the_same_training(tmp_path):
    train_diffusion(stripes(), DIT, 2, TrainingRun(LocalReporter()), tmp_path / "a")
    train_diffusion(
        stripes(), replace(DIT, micro_batch=3), 2, TrainingRun(LocalReporter()), tmp_path / "b"
    )  # parts of 2
    a, b = weights(tmp_path / "a", "transformer"), weights(tmp_path / "b", "transformer")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_a_conditional_network_learns_its_classes(tmp_path):
    config = replace(
        DIT, steps=250, batch_size=32, channels=(2, 16, 2), lr=4e-3, ema_decay=0.98, save_precision="fp16"
    )
    seen = []
    train_diffusion(
        stripes(size=4),
        config,
        2,
        TrainingRun(LocalReporter(on_report=lambda s, n, v: seen.append(v["loss"]))),
        tmp_path,
        class_names=["rows", "columns"],
    )
    assert np.mean(seen[-20:]) < 0.35 * np.mean(seen[:5])
    generator = load_generator(str(tmp_path))
    assert generator.class_names == ["rows", "columns"]
    images = generator.sample([0, 1] * 8, list(range(16)), SynthConfig(steps=25)).float()[:, 0]
    across, down = images.diff(dim=2).abs().mean((1, 2)), images.diff(dim=1).abs().mean((1, 2))
    assert ((down > across) == torch.tensor([True, False] * 8)).float().mean() > 0.9
    assert weights(tmp_path, "transformer")["proj_out_2.weight"].dtype == torch.float16


def test_an_unconditional_folder_is_read_by_alignment_and_by_diffusers(tmp_path):
    config = replace(UNET, space_to_depth=2, learn_sigma=True)
    train_diffusion(stripes(size=16), config, None, TrainingRun(LocalReporter()), tmp_path)
    network = load_unconditional(str(tmp_path))
    assert (network.channels, network.image_size) == (1, 16)
    assert network(torch.randn(2, 1, 16, 16), torch.tensor([3, 3])).shape == (2, 2, 16, 16)
    assert (
        UNet2DModel.from_pretrained(
            str(tmp_path), subfolder="unet", low_cpu_mem_usage=False
        ).config.in_channels
        == 4
    )
    details = json.loads((tmp_path / "diffadapt.json").read_text())
    assert details["space_to_depth"] == 2 and details["training"]["steps"] == 6
    assert "checkpoint_every" not in details["training"]
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert (
        json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["variance_type"]
        == "learned_range"
    )


def test_native_size_trains_small_and_samples_large(tmp_path):
    small = stripes(size=8)
    x = torch.from_numpy(small.images).permute(0, 3, 1, 2).double()
    large = ArrayImages(upsample(x, 2, "bilinear").round().byte().permute(0, 2, 3, 1).numpy(), small.labels)
    batch = batches(large, shrink=2, flip=False)(0)
    # least squares undoes the enlargement up to the rounding of its pixels
    assert float((batch.x0 - batches(small, flip=False)(0).x0).abs().max()) < 0.02
    train_diffusion(large, replace(DIT, native_size=8), 2, TrainingRun(LocalReporter()), tmp_path)
    generator = load_generator(str(tmp_path))
    assert generator.image_size == 16 and generator.sample([1], [1], SynthConfig(steps=2)).shape == (
        1,
        1,
        16,
        16,
    )


def test_latent_training(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )
    save_component(vae, tmp_path / "vae")
    config = replace(DIT, latent=str(tmp_path / "vae"), learn_sigma=True)
    source = stripes(channels=3)
    b = batches(source, vae=vae.requires_grad_(False), flip=False)
    batch = b(0)
    pixels = (
        torch.stack([torch.from_numpy(source[i][0]) for i in b.indices(0, 0)]).permute(0, 3, 1, 2).float()
        / 127.5
        - 1
    )
    posterior = vae.encode(pixels).latent_dist
    z = (batch.x0 / 0.5 - posterior.mean) / posterior.std
    assert batch.x0.shape == (8, 4, 4, 4) and 0.8 < float(z.std()) < 1.2
    assert float((z - batch.noise).abs().max()) > 0.1
    metrics = train_diffusion(source, config, 2, TrainingRun(LocalReporter()), tmp_path / "out")
    assert metrics["vlb"] > 0
    assert load_generator(str(tmp_path / "out")).sample([0], [1], SynthConfig(steps=2)).shape == (1, 3, 8, 8)


def test_sample_grids_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = str(tmp_path / "log")
    train_diffusion(stripes(), DIT, 2, TrainingRun(LocalReporter(log_dir=log)), tmp_path / "out", log_dir=log)
    events = EventAccumulator(log)
    events.Reload()
    assert "loss" in events.Tags()["scalars"]
    assert {e.step for e in events.Images("samples")} <= {3, 6} and len(events.Images("samples")) > 0


def test_grids_do_not_disturb_training(tmp_path):
    train_diffusion(stripes(), DIT, 2, TrainingRun(LocalReporter()), tmp_path / "a")
    train_diffusion(
        stripes(), DIT, 2, TrainingRun(LocalReporter()), tmp_path / "b", log_dir=str(tmp_path / "log")
    )
    a, b = weights(tmp_path / "a", "transformer"), weights(tmp_path / "b", "transformer")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_nan_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import diffadapt.train.diffusion as module

    real, calls = module.diffusion_loss, []

    def poisoned(*args):
        calls.append(1)
        losses = real(*args)
        return {k: v * float("nan") for k, v in losses.items()} if len(calls) == 5 else losses

    monkeypatch.setattr(module, "diffusion_loss", poisoned)
    checkpoints = Checkpoints(str(tmp_path / "ckpt"))
    with pytest.raises(TrainingError, match="step 5.*step 3 is kept"):
        train_diffusion(stripes(), DIT, 2, TrainingRun(LocalReporter(), checkpoints), tmp_path / "out")
    assert checkpoints.steps() == [3] and not (tmp_path / "out").exists()


def test_the_bound_is_zero_for_the_true_posterior_and_grows_with_a_wrong_variance():
    schedule, t = Schedule.linear(), torch.tensor([10, 500, 999])
    x0, noise = torch.rand(3, 1, 4, 4) * 2 - 1, torch.randn(3, 1, 4, 4)
    x_t = q_sample(schedule, t, x0, noise)
    perfect = torch.cat([noise, -torch.ones_like(noise)], dim=1)  # v = -1: the posterior variance itself
    assert float(vlb_bits(schedule, t, x0, x_t, perfect).abs().max()) < 1e-2
    wrong = torch.cat([noise, -3 * torch.ones_like(noise)], dim=1)
    assert (
        vlb_bits(schedule, t, x0, x_t, wrong)[:1] > vlb_bits(schedule, t, x0, x_t, perfect)[:1] + 1e-4
    ).all()


def test_the_first_step_is_a_likelihood_of_8_bit_values():
    schedule, t = Schedule.linear(), torch.zeros(1, dtype=torch.long)
    x0 = torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    x_t = q_sample(schedule, t, x0, torch.zeros_like(x0))
    good = vlb_bits(schedule, t, x0, x_t, torch.cat([torch.zeros_like(x0), -torch.ones_like(x0)], 1))
    bad = vlb_bits(schedule, t, x0, x_t, torch.cat([torch.full_like(x0, 20.0), -torch.ones_like(x0)], 1))
    assert 0 <= float(good) < 8 < float(bad)


def test_the_bound_trains_the_variance_only():
    schedule, t = Schedule.linear(), torch.tensor([0, 300])
    x0, noise = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    out = torch.randn(2, 2, 4, 4, requires_grad=True)
    x_t = q_sample(schedule, t, x0, noise)
    losses = diffusion_loss(schedule, t, x0, x_t, noise, out)
    (grad,) = torch.autograd.grad(losses["vlb"], out, retain_graph=True)
    assert float(grad[:, :1].abs().max()) == 0.0 and float(grad[:, 1:].abs().max()) > 0.0
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["vlb"])


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        ({"architecture": "dit", "channels": (8, 16)}, 2, "heads, head width, layers"),
        ({"architecture": "dit", "channels": (2, 8, 2)}, None, "needs labelled images"),
        ({"architecture": "dit", "channels": (2, 8, 2), "patch_size": 3}, 2, "patch_size 3"),
        ({"architecture": "dit", "channels": (2, 8, 2), "space_to_depth": 2}, 2, "space_to_depth"),
        ({}, 2, "without labels"),
        ({"attention_levels": (1, 2)}, None, "level 2"),
        ({"space_to_depth": 8}, None, "divisible by 16"),
        ({"native_size": 4}, None, "native_size 4"),
        ({"latent": "x"}, None, "architecture dit"),
    ],
)
def test_settings_that_do_not_fit_name_the_field(tmp_path, change, classes, message):
    with pytest.raises(RecipeError, match=message):
        train_diffusion(stripes(), replace(UNET, **change), classes, TrainingRun(LocalReporter()), tmp_path)


def test_images_that_do_not_fit_are_named(tmp_path):
    good = stripes()

    def fit(images, labels=good.labels):
        train_diffusion(ArrayImages(images, labels), DIT, 2, TrainingRun(LocalReporter()), tmp_path)

    with pytest.raises(DataError, match="no images"):
        fit(good.images[:0])
    with pytest.raises(DataError, match="square"):
        fit(good.images[:, :4])
    with pytest.raises(DataError, match=r"label \d+, outside 0..1"):
        fit(good.images, good.labels + 1)
    mixed = ListImages(good)
    mixed.source = [good[i] if i else (np.zeros((6, 6, 1), np.uint8), 0) for i in range(20)]
    with pytest.raises(DataError, match="is uint8 of shape"):
        train_diffusion(mixed, DIT, 2, TrainingRun(LocalReporter()), tmp_path)


def _worker(rank, folder, source):
    from diffadapt.train.reporter import DistributedReporter

    train_diffusion(source, DIT, 2, TrainingRun(DistributedReporter()), f"{folder}/two")


@pytest.mark.slow
def test_two_workers_equal_one(tmp_path):
    in_two_workers(_worker, tmp_path, stripes())
    train_diffusion(stripes(), DIT, 2, TrainingRun(LocalReporter()), tmp_path / "one")
    one, two = weights(tmp_path / "one", "transformer"), weights(tmp_path / "two", "transformer")
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4
