"""Preprocessing, prediction and Grad-CAM."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from diffadapt.core.errors import DataError, RecipeError, TrainingError
from diffadapt.models.classifier import Classifier, create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.preprocess import match_channels, normalise, prepare_image, to_input
from diffadapt.tasks.classification.gradcam import gradcam
from diffadapt.tasks.classification.logits import predict_logits


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(224, 224, 3), (300, 401, 3), (500, 333, 3), (60, 50, 3)])
def test_equals_torchvisions_evaluation_transform(shape):
    image, config = noise(*shape), with_inputs(ClassifierConfig(name="train"))
    reference = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )(Image.fromarray(image))
    torch.testing.assert_close(to_input([image], config)[0], reference, atol=1e-6, rtol=0)


def test_native_leaves_fitting_images_alone():
    image = noise(224, 224, 3)
    assert np.array_equal(prepare_image(image, ClassifierConfig(name="train", eval_resize="native")), image)
    assert not np.array_equal(prepare_image(image, ClassifierConfig(name="train")), image)
    other = noise(300, 300, 3)
    native, reference = (
        prepare_image(other, ClassifierConfig(name="train", eval_resize=m)) for m in ("native", "reference")
    )
    assert np.array_equal(native, reference)


def test_no_resize_and_grey():
    image = noise(16, 16, 1)
    assert np.array_equal(
        prepare_image(image, ClassifierConfig(name="train", resize=0, crop=16, in_channels=1)), image
    )
    assert prepare_image(image, ClassifierConfig(name="train", resize=0, crop=16)).shape == (16, 16, 3)
    colour = noise(40, 30, 3)
    assert np.array_equal(match_channels(colour, 1)[..., 0], np.asarray(Image.fromarray(colour).convert("L")))


def test_wrong_images_and_statistics():
    with pytest.raises(DataError, match="float32"):
        prepare_image(np.zeros((4, 4, 3), np.float32), ClassifierConfig(name="train"))
    with pytest.raises(DataError, match=r"\(4, 4\)"):
        prepare_image(np.zeros((4, 4), np.uint8), ClassifierConfig(name="train"))
    with pytest.raises(RecipeError, match="1 channel"):
        normalise(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), ClassifierConfig(name="train", in_channels=1))


def classifier(**config):
    torch.manual_seed(0)
    config = ClassifierConfig(
        name="train", in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.5,), **config
    )
    return Classifier(create_model("cifar_resnet8", 3, 1), config, "cifar_resnet8", "train")


def test_prediction_does_not_depend_on_the_batch_size():
    images = list(noise(10, 16, 16, 1))
    model = classifier(batch_size=4).train()
    parts = predict_logits(model, iter(images))
    whole = predict_logits(classifier(batch_size=100), images)
    assert parts.shape == (10, 3) and parts.dtype == np.float32
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert model.training and predict_logits(model, []).shape == (0, 3)


def test_nan_logits_are_an_error():
    model = classifier()
    torch.nn.init.constant_(model.model.linear.bias, float("nan"))
    with pytest.raises(TrainingError, match="NaN"):
        predict_logits(model, noise(1, 16, 16, 1))


ARCHS = [
    ("cifar_resnet8", 32, {}),
    ("resnet10t", 160, {}),
    ("convnext_atto", 64, {}),
    ("swin_tiny_patch4_window7_224", 64, dict(img_size=64, depths=(1, 1, 1, 1))),
    ("vit_tiny_patch16_224", 64, dict(img_size=64, depth=2)),
    ("vit_tiny_patch16_224", 64, dict(img_size=64, depth=2, global_pool="avg", class_token=False)),
]


@pytest.mark.parametrize("arch,size,kwargs", ARCHS)
def test_gradcam_gives_maps_for_every_layout(arch, size, kwargs):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=4, **kwargs).train()
    x = torch.randn(3, 3, size, size)
    maps = torch.stack([gradcam(model, x, [k] * 3) for k in range(4)])
    assert maps.shape == (4, 3, size, size) and maps.min() >= 0 and maps.max() == 1
    peaks = maps.amax((2, 3))
    assert ((peaks == 0) | (peaks == 1)).all() and peaks.sum() > 0
    assert model.training and all(p.grad is None for p in model.parameters())
    assert len({m.sum().item() for m in maps}) > 1


def test_gradcam_equals_captum():
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet8", num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    theirs = LayerGradCam(model, model.layer3).attribute(x, torch.tensor([1, 2]), relu_attributions=True)
    theirs = torch.nn.functional.interpolate(theirs, size=32, mode="bilinear")[:, 0].detach()
    theirs = theirs / theirs.amax((1, 2), keepdim=True).clamp_min(1e-20)
    torch.testing.assert_close(gradcam(model, x, [1, 2]), theirs, atol=1e-5, rtol=0)


def test_gradcam_points_at_the_evidence_of_each_class():
    """A network with one detector for bright and one for dark, and an image with a bright and a dark
    corner."""

    class BrightOrDark(torch.nn.Module):
        num_features = 2

        def forward_features(self, x):
            x = torch.nn.functional.avg_pool2d(x, 4)
            return torch.relu(torch.cat([x, -x], 1))

        def forward_head(self, f):
            return f.mean((2, 3))

    image = torch.zeros(1, 1, 32, 32)
    image[..., :8, :8], image[..., 24:, 24:] = 1.0, -1.0
    bright, dark = gradcam(BrightOrDark(), image, [0])[0], gradcam(BrightOrDark(), image, [1])[0]
    assert bright[:12, :12].sum() > 0.99 * bright.sum() and bright[2:6, 2:6].min() == 1
    assert dark[20:, 20:].sum() > 0.99 * dark.sum()
    assert gradcam(BrightOrDark(), image.clamp_min(0), [1]).max() == 0


def test_gradcam_needs_timms_interface():
    with pytest.raises(RecipeError, match="forward_features"):
        gradcam(torch.nn.Linear(1, 1), torch.zeros(1, 1))
