"""Tent and MEMO: what they change, what they leave alone, and that they do what they say."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from diffadapt.core.errors import RecipeError, TrainingError
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.methods.tta.augmix import augmix_views
from diffadapt.methods.tta.memo import Memo, marginal_entropy
from diffadapt.methods.tta.tent import Tent, configure, entropy, stream_order
from diffadapt.models.classifier import create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.preprocess import to_input
from diffadapt.tasks.classification.training import fit_classifier
from diffadapt.train.config import FitConfig
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun

GREY = ClassifierConfig(in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.25,))


def digits():
    from sklearn.datasets import load_digits

    raw = load_digits()
    return np.kron(raw.images * 15.9, np.ones((2, 2))).astype(np.uint8)[..., None], raw.target


@pytest.fixture(scope="module")
def trained():
    images, labels = digits()
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 10, 1)
    config = FitConfig(
        epochs=5, batch_size=64, optimizer="adamw", lr=4e-3, schedule="cosine", augment="shift", flip=False
    )
    fit_classifier(
        model, images[600:], config, TrainingRun(LocalReporter()), inputs=GREY, labels=labels[600:]
    )
    return model


def shifted(n=512):
    """The held-out digits with low contrast and noise."""
    images, labels = digits()
    noise = np.random.default_rng(0).normal(0, 25, images[:n].shape)
    return np.clip(0.35 * images[:n] + 90 + noise, 0, 255).astype(np.uint8), labels[:n]


def batches(images, size=64):
    return to_input(list(images), GREY).split(size)


def test_tent_lowers_entropy_and_raises_accuracy(trained):
    images, labels = shifted()
    with torch.no_grad():
        source = trained(to_input(list(images), GREY))
    tent = Tent(trained, TentConfig(optimizer="adam", lr=1e-2))
    first = tent.forward_stream(batches(images))
    second = tent.forward_stream(batches(images))
    assert first.shape == (512, 10) and first.dtype == np.float32
    still = Tent(trained, TentConfig(optimizer="adam", lr=0.0)).forward_stream(batches(images))
    means = [entropy(torch.from_numpy(x)).mean().item() for x in (second, first, still)]
    assert means[0] < means[1] < means[2]
    before, after = (np.mean(x.argmax(1) == labels) for x in (source.numpy(), first))
    assert after > before + 0.1


def test_tent_changes_norm_parameters_only_and_not_the_model_it_got(trained):
    kept = copy.deepcopy(trained.state_dict())
    tent = Tent(trained, TentConfig(lr=0.1))
    logits = tent.step(batches(shifted()[0])[0])
    assert all(torch.equal(v, kept[k]) for k, v in trained.state_dict().items())
    assert trained.bn1.running_mean is not None and trained.conv1.weight.requires_grad
    moved = {k for k, v in tent.model.state_dict().items() if not torch.equal(v, kept[k])}
    norms = {n for n, m in trained.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert moved and {k.rpartition(".")[0] for k in moved} <= norms
    tent.reset()
    assert torch.equal(tent.step(batches(shifted()[0])[0]), logits)


def test_tent_returns_logits_from_before_the_update(trained):
    x = batches(shifted()[0])[0]
    fresh = copy.deepcopy(trained).eval()
    configure(fresh)
    with torch.no_grad():
        want = fresh(x)
    tent = Tent(trained, TentConfig(lr=0.1))
    torch.testing.assert_close(tent.step(x), want)
    assert (tent.step(x) - want).abs().max() > 1e-4
    # Batch statistics: the prediction of an image depends on its batch.
    with torch.no_grad():
        assert (fresh(x[:8]) - want[:8]).abs().max() > 1e-3


def test_tent_one_step_is_the_gradient_step_on_the_mean_entropy(trained):
    x = batches(shifted()[0])[0]
    model = copy.deepcopy(trained).eval()
    parameters = configure(model)
    gradients = torch.autograd.grad(entropy(model(x)).mean(), parameters)
    tent = Tent(trained, TentConfig(lr=0.05, momentum=0.9))
    tent.step(x)
    for parameter, start, gradient in zip(tent.parameters, parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), start.detach() - 0.05 * gradient)


@pytest.mark.parametrize("arch,size,kwargs", [
    ("swin_tiny_patch4_window7_224", 64, dict(img_size=64, depths=(1, 1, 1, 1), drop_path_rate=0.5)),
    ("convnext_atto", 64, dict(drop_path_rate=0.5)),
])  # fmt: skip
def test_tent_adapts_layer_norm_of_transformers(arch, size, kwargs):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=5, **kwargs)
    tent = Tent(model, TentConfig(lr=1e-2))
    x = torch.randn(4, 3, size, size)
    first = tent.step(x)
    assert entropy(tent.step(x)).mean() < entropy(first).mean()
    norms = {id(p) for m in tent.model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    assert {id(p) for p in tent.parameters} == norms


def test_tent_refuses_models_without_norms_and_nan(trained):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    with pytest.raises(RecipeError, match="has none"):
        Tent(plain, TentConfig())
    tent = Tent(trained, TentConfig())
    with pytest.raises(TrainingError, match="NaN"):
        tent.step(torch.full((4, 1, 16, 16), float("nan")))
    assert all(torch.isfinite(p).all() for p in tent.parameters)


def test_stream_order():
    items = [(kind, label) for kind in ("fog", "snow") for label in (1, 0, 1, 0, 2)]
    by_type = stream_order(items, mixed_classes=True, mixed_types=False, seed=3)
    assert [sorted(s) for s in by_type] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert by_type[0].tolist() == stream_order(items[:5], True, False, 3)[0].tolist()
    assert any(by_type[0].tolist() != stream_order(items, True, False, s)[0].tolist() for s in range(4, 9))
    (mixed,) = stream_order(items, True, True, 3)
    assert sorted(mixed) == list(range(10)) and sorted(mixed[:5]) not in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    for stream in stream_order(items, False, False, 3):
        assert [items[i][1] for i in stream] == [0, 0, 1, 1, 2]
    (ordered,) = stream_order(items, False, True, 3)
    assert [items[i][1] for i in ordered] == [0] * 4 + [1] * 4 + [2] * 2
    assert stream_order([], True, False) == [] and stream_order([], True, True) == []


@pytest.mark.parametrize("shape,size", [((16, 16, 1), 16), ((224, 224, 3), 224), ((40, 61, 3), 32)])
def test_augmix_views(shape, size):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    views = augmix_views(image, 6, size, seed=1)
    assert views.shape == (6, size, size, shape[2]) and views.dtype == np.float32
    assert 0 <= views.min() and views.max() <= 255.001
    assert np.array_equal(views, augmix_views(image, 6, size, seed=1))
    assert np.array_equal(views[:3], augmix_views(image, 3, size, seed=1))
    assert not np.array_equal(views, augmix_views(image, 6, size, seed=2))
    assert len({v.tobytes() for v in views}) == 6


def test_augmix_flip_can_be_switched_off():
    image = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 1, 1))
    tilt = [
        np.polyfit(np.arange(32), v[..., 0].mean(0), 1)[0] for v in augmix_views(image, 40, 32, 0, flip=False)
    ]
    assert min(tilt) > 0
    tilt = [
        np.polyfit(np.arange(32), v[..., 0].mean(0), 1)[0] for v in augmix_views(image, 40, 32, 0, flip=True)
    ]
    assert min(tilt) < 0 < max(tilt)


def test_memo_does_not_depend_on_the_order_of_images(trained):
    images, _ = shifted(4)
    memo = Memo(trained, MemoConfig(views=8, lr=0.05, flip=False), GREY)
    kept = copy.deepcopy(trained.state_dict())
    forward = [memo.predict(im, seed=i) for i, im in enumerate(images)]
    backward = [memo.predict(images[i], seed=i) for i in (3, 2, 1, 0)][::-1]
    assert np.array_equal(forward, backward) and forward[0].shape == (10,)
    assert not np.array_equal(memo.predict(images[0], seed=99), forward[0])
    assert all(torch.equal(v, kept[k]) for k, v in trained.state_dict().items())


def test_memo_makes_views_agree(trained):
    images, _ = shifted(6)
    memo = Memo(trained, MemoConfig(views=32, lr=0.01, flip=False), GREY)
    for image in images:
        drawn, parts = memo.begin(image, 0)
        views = memo.views(drawn, np.stack(parts))
        memo._reset()
        with torch.no_grad():
            before = marginal_entropy(memo.model(views))
        memo._adapt(views)
        with torch.no_grad():
            assert marginal_entropy(memo.model(views)) < before


def test_memo_without_a_step_is_the_source_model_with_mixed_statistics(trained):
    image = shifted(1)[0][0]
    got = Memo(trained, MemoConfig(views=2, steps=0, bn_prior=1e9), GREY).predict(image, 0)
    with torch.no_grad():
        want = trained(to_input([image], GREY))[0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
    mixed = Memo(trained, MemoConfig(views=2, steps=0), GREY).predict(image, 0)
    assert np.abs(mixed - want).max() > 1e-2


def test_batch_norm_prior_by_hand():
    norm = nn.BatchNorm2d(1).eval()
    norm.running_mean.fill_(2.0), norm.running_var.fill_(4.0)
    x = torch.tensor([0.0, 17.0]).reshape(2, 1, 1, 1)
    memo = Memo(norm, MemoConfig(views=1), GREY)
    mean, var = (16 * 2 + 8.5) / 17, (16 * 4 + x.var()) / 17
    torch.testing.assert_close(memo.model(x), (x - mean) / torch.sqrt(var + 1e-5))


def test_chunks_do_not_change_memo_without_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 10))
    image = shifted(1)[0][0]
    whole, parts = (
        Memo(model, MemoConfig(views=10, optimizer="sgd", lr=0.1, chunk=c), GREY).predict(image, 0)
        for c in (64, 3)
    )
    plain = model(to_input([image], GREY))[0].detach().numpy()
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert np.abs(whole - plain).max() > 1e-3


def test_marginal_entropy_by_hand():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    assert marginal_entropy(logits).item() == pytest.approx(np.log(2), abs=1e-6)
    assert marginal_entropy(logits[:1]).item() == pytest.approx(entropy(logits[:1]).item(), abs=1e-6)
