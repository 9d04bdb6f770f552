"""Classifier training: batches, augmentations, schedules, optimiser groups, resume, workers."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.models.classifier import Classifier, create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.tasks.classification.augment import make_augment
from diffadapt.tasks.classification.batches import Batches, Labelled
from diffadapt.tasks.classification.training import fit_classifier
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.config import CONVNEXT_B_CODE, RESNET_CODE, RESNET_PAPER, SWIN_CODE, FitConfig
from diffadapt.train.optim import make_optimizer, make_schedule, parameter_groups
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from tests.workers import in_two_workers

GREY = ClassifierConfig(in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.25,))
QUICK = FitConfig(
    epochs=4,
    batch_size=16,
    lr=0.05,
    schedule="constant",
    augment="shift",
    flip=False,
    weight_decay=0.0,
    checkpoint_every=5,
)


def digits(n=300):
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.kron(raw.images[:n] * 15.9, np.ones((2, 2))).astype(np.uint8)[..., None]
    return images, raw.target[:n]


def fit(config=QUICK, n=72, checkpoints=None, reporter=None, model=None, **kwargs):
    torch.manual_seed(0)
    model = model or create_model("cifar_resnet8", 10, 1, config.drop_path)
    images, labels = digits(n)
    result = fit_classifier(
        model,
        images,
        config,
        TrainingRun(reporter or LocalReporter(), checkpoints, **kwargs),
        inputs=GREY,
        labels=labels,
    )
    return model, result


def test_digits_are_learned():
    images, labels = digits(1500)
    config = FitConfig(
        epochs=6,
        batch_size=64,
        optimizer="adamw",
        lr=4e-3,
        schedule="cosine",
        warmup_epochs=1,
        augment="shift",
        flip=False,
        label_smoothing=0.1,
        clip_norm=5.0,
        decay_norm_and_bias=False,
        drop_path=0.05,
    )
    seen = []
    reporter = LocalReporter(on_report=lambda step, total, scalars: seen.append(scalars))
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 10, 1, 0.05)
    result = fit_classifier(
        model, images[300:], config, TrainingRun(reporter), inputs=GREY, labels=labels[300:]
    )
    assert not model.training
    x = (torch.from_numpy(images[:300]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        assert (model(x).argmax(1).numpy() == labels[:300]).mean() > 0.85
    assert len(seen) == result["steps"] == 6 * 19
    assert set(seen[0]) >= {"loss", "accuracy", "lr", "grad_norm", "images_per_second"}
    assert np.mean([s["accuracy"] for s in seen[-9:]]) > 0.8 > np.mean([s["accuracy"] for s in seen[:9]])


def test_resume_in_mid_epoch_gives_the_same_bits(tmp_path):
    config = FitConfig(**{**QUICK.__dict__, "drop_path": 0.2, "augment": "resnet"})
    whole, result = fit(config)

    def kill(step, scalars):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, checkpoints=Checkpoints(str(tmp_path)), on_step=kill)
    resumed, again = fit(config, checkpoints=Checkpoints(str(tmp_path)))
    assert again["resumed_from"] == 10 and again["loss"] == result["loss"]
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_readers_change_nothing_but_speed():
    here, _ = fit(n=40)
    ahead, _ = fit(n=40, readers=1)
    assert all(torch.equal(v, ahead.state_dict()[k]) for k, v in here.state_dict().items())


def test_an_indexable_object_and_a_wrapped_classifier_train_alike():
    images, labels = digits(40)
    plain, _ = fit(n=40)
    torch.manual_seed(0)
    wrapped = Classifier(create_model("cifar_resnet8", 10, 1), GREY, "cifar_resnet8", "train")
    fit_classifier(wrapped, Labelled(images, labels), QUICK, TrainingRun(LocalReporter()), inputs=GREY)
    assert all(torch.equal(v, wrapped.model.state_dict()[k]) for k, v in plain.state_dict().items())


class NoNorm(nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 24), nn.GELU(), nn.Linear(24, 10))

    def forward(self, x):
        return self.body(x)


def _worker(rank, folder):
    torch.manual_seed(0)
    model, result = fit(n=37, reporter=DistributedReporter(), model=NoNorm())
    if rank == 0:
        torch.save({"model": model.state_dict(), "loss": result["loss"]}, f"{folder}/two.pt")


def test_two_workers_equal_one_even_with_an_uneven_last_batch(tmp_path):
    in_two_workers(_worker, tmp_path)
    torch.manual_seed(0)
    one, result = fit(n=37, model=NoNorm())  # batches of 16, 16 and 5: the ranks hold 8+8, 8+8, 2+3
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two["model"][key], value, atol=1e-5, rtol=0)
    assert two["loss"] == pytest.approx(result["loss"], abs=1e-5)
    torch.manual_seed(0)
    small, _ = fit(FitConfig(**{**QUICK.__dict__, "micro_batch": 3}), n=37, model=NoNorm())
    for key, value in one.state_dict().items():
        torch.testing.assert_close(small.state_dict()[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("world,accumulate", [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_every_image_comes_once_an_epoch(world, accumulate):
    images, labels = digits(53)
    config = FitConfig(augment="none")
    made = [
        Batches(
            Labelled(images, labels),
            make_augment(config, GREY),
            batch_size=20,
            rank=r,
            world_size=world,
            accumulate=accumulate,
        )
        for r in range(world)
    ]
    assert made[0].steps_per_epoch == 3
    for epoch in range(2):
        seen, total = [], 0.0
        for step in range(3 * epoch, 3 * epoch + 3):
            batches = [b(step, micro) for b in made for micro in range(accumulate)]
            assert sum(b.weight for b in batches) == pytest.approx(world * accumulate)
            assert all(len(b.labels) >= 1 for b in batches)
            for part in range(world * accumulate):
                seen.extend(made[0].indices(step, part))
            total += made[0].size(step)
        assert sorted(seen) == list(range(53)) and total == 53
    orders = [
        [int(i) for part in range(world * accumulate) for i in made[0].indices(step, part)] for step in (0, 3)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("augment", ["none", "shift", "resnet", "transformer"])
@pytest.mark.parametrize("inputs", [GREY, ClassifierConfig(resize=40, crop=32)])
def test_augmentations_follow_their_seed_and_leave_the_global_generators(augment, inputs):
    image = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    function = make_augment(FitConfig(augment=augment), inputs)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    out = [function(image, seed) for seed in range(12)]
    assert states[0] == random.getstate() and (states[1] == np.random.get_state()[1]).all()
    assert torch.equal(states[2], torch.get_rng_state())
    assert all(o.shape == (inputs.in_channels, inputs.crop, inputs.crop) for o in out)
    assert out[0].dtype == (torch.float32 if augment == "transformer" else torch.uint8)
    assert torch.equal(out[3], function(image, 3))
    assert len({o.numpy().tobytes() for o in out}) in {"none": [1], "shift": range(8, 13)}.get(augment, [12])


def test_transformer_augmentation_is_normalised():
    image = np.full((32, 32, 3), 255, np.uint8)
    inputs = with_inputs(ClassifierConfig(resize=0, crop=32))
    out = torch.stack([make_augment(FitConfig(augment="transformer"), inputs)(image, s) for s in range(30)])
    white = (1 - torch.tensor(inputs.mean)) / torch.tensor(inputs.std)
    assert (out.permute(0, 2, 3, 1) - white).abs().amax(-1).lt(1e-4).float().mean() > 0.2
    assert out.min() < 0


def test_shift_moves_by_an_eighth_at_most():
    image = np.zeros((16, 16, 1), np.uint8)
    image[8, 8] = 255
    function = make_augment(FitConfig(augment="shift", flip=False), GREY)
    spots = {tuple(torch.nonzero(function(image, seed)[0])[0].tolist()) for seed in range(400)}
    assert spots == {(8 + a, 8 + b) for a in range(-2, 3) for b in range(-2, 3)}


def test_schedules_at_their_corners():
    step = make_schedule(RESNET_PAPER, 10)
    assert [step(s) for s in (0, 99, 100, 149)] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])
    code = make_schedule(RESNET_CODE, 10)
    assert code(250) == pytest.approx(5e-7)
    cosine = make_schedule(SWIN_CODE, 10)
    assert [cosine(s) for s in (0, 25, 50, 175)] == pytest.approx(
        [4e-13, 4e-13 + (2e-5 - 4e-13) / 2, 2e-5, (2e-5 + 2e-7) / 2]
    )
    assert cosine(300) == pytest.approx(2e-7) and cosine(299) > 2e-7
    assert make_schedule(QUICK, 3)(11) == 0.05
    with pytest.raises(RecipeError, match="warm-up"):
        make_schedule(FitConfig(epochs=2, warmup_epochs=3), 5)


def test_decay_spares_norms_biases_and_position_biases():
    import timm

    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), num_classes=3)
    decayed, spared = (set(map(id, g["params"])) for g in parameter_groups(swin, SWIN_CODE))
    for name, parameter in swin.named_parameters():
        free = parameter.ndim == 1 or "relative_position_bias_table" in name
        assert (id(parameter) in spared) == free and (id(parameter) in decayed) != free, name
    optimizer = make_optimizer(swin, CONVNEXT_B_CODE)
    assert isinstance(optimizer, torch.optim.AdamW) and [
        g["weight_decay"] for g in optimizer.param_groups
    ] == [1e-8, 0.0]
    sgd = make_optimizer(create_model("cifar_resnet8", 2), RESNET_PAPER)
    assert len(sgd.param_groups) == 1 and sgd.param_groups[0]["momentum"] == 0.9


def test_users_mistakes():
    with pytest.raises(RecipeError, match="drop path 0.2, but the model was created with 0.0"):
        fit(FitConfig(**{**QUICK.__dict__, "drop_path": 0.2}), model=create_model("cifar_resnet8", 10, 1))
    with pytest.raises(DataError, match="labels run from 0 to 9"):
        fit(model=create_model("cifar_resnet8", 5, 1))
    images, labels = digits(10)
    with pytest.raises(DataError, match="10 training images but 9 labels"):
        fit_classifier(NoNorm(), images, QUICK, TrainingRun(LocalReporter()), inputs=GREY, labels=labels[:9])
    with pytest.raises(DataError, match="no training images"):
        fit_classifier(
            NoNorm(), images[:0], QUICK, TrainingRun(LocalReporter()), inputs=GREY, labels=labels[:0]
        )
