"""GDA's publicly described losses: each one moves what it says it moves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.core.errors import RecipeError, WeightsError  # noqa: E402
from diffadapt.diffusion.aligners.config import AlignConfig, GDAConfig  # noqa: E402
from diffadapt.diffusion.gda import (  # noqa: E402
    GDA,
    clip_style,
    encoder_features,
    gda_loop,
    marginal_entropy,
    patch_contrast,
    view_maps,
)
from diffadapt.diffusion.network import UnconditionalNetwork  # noqa: E402
from diffadapt.diffusion.projector import Projector  # noqa: E402
from diffadapt.diffusion.schedule import Schedule  # noqa: E402
from diffadapt.models.importers.adm import adm_from_original, read_checkpoint  # noqa: E402

TINY = Path(__file__).parents[1] / "golden" / "sda" / "adm_tiny_weights.safetensors"
CONFIG = AlignConfig(guidance="gda", respacing=20, start=6, batch_size=4, scale=1.0)


@pytest.fixture(scope="module")
def network() -> UnconditionalNetwork:
    return UnconditionalNetwork(adm_from_original(*read_checkpoint(TINY)))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def classifier(x: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    return 20.0 * x.mean(dim=(2, 3)) @ weights


def run(network, images, config: GDAConfig, scale: float, **kwargs) -> torch.Tensor:
    gda = GDA(config, network, classifier, torch.device("cpu"), **kwargs)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    schedule = Schedule.linear().respace(20)
    return gda_loop(gda, images, noise, schedule, start=6, scale=scale, seeds=[1, 2, 3])


def test_entropy_guidance_makes_the_classifier_surer(network, images):
    config = GDAConfig(content_weight=0.0)
    views = view_maps([1, 2, 3], config.views)
    with torch.no_grad():
        free = marginal_entropy(classifier, run(network, images, config, 0.0), views)
        guided = marginal_entropy(classifier, run(network, images, config, 2.0), views)
    assert (guided < free).all()


def test_content_guidance_keeps_patches_recognisable(network, images):
    config = GDAConfig(entropy_weight=0.0)
    t = torch.zeros(3, dtype=torch.int64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return patch_contrast(
                encoder_features(network, x, t), encoder_features(network, images, t), 64, 0.07
            )

    assert loss(run(network, images, config, 2.0)).mean() < loss(run(network, images, config, 0.0)).mean()


def test_style_guidance_moves_towards_the_style(network, images):
    config = GDAConfig(entropy_weight=0.0, content_weight=0.0, style_weight=1.0)
    style = lambda x: (x - 0.8).square().mean(dim=(1, 2, 3))  # noqa: E731
    assert (
        style(run(network, images, config, 2.0, style=style))
        < style(run(network, images, config, 0.0, style=style))
    ).all()


def test_an_image_does_not_depend_on_its_batch_mates(network, images):
    projector = Projector(network, CONFIG, classifier=classifier)
    together = projector.project(images, [1, 2, 3])
    alone = projector.project(images[1:2], [2])
    assert (together[1:2].int() - alone.int()).abs().max() <= 1


def test_identical_patches_are_recognised_and_shuffled_ones_are_not():
    features = torch.randn(2, 16, 8, 8)
    same = patch_contrast(features, features, 64, 0.07)
    shuffled = patch_contrast(features.flip(2), features, 64, 0.07)
    assert same.shape == (2,) and (same < 0.1).all() and (shuffled > 1).all()


def test_views_stay_inside_the_image_and_begin_with_it():
    maps = view_maps([1, 2], 50)
    assert torch.equal(maps[:, 0], torch.eye(2, 3).expand(2, 2, 3))
    assert (maps[..., :2].abs().sum(-1) + maps[..., 2].abs() <= 1 + 1e-6).all()
    assert torch.equal(maps[1:], view_maps([2], 50))


def test_missing_parts_are_clear_errors(network):
    with pytest.raises(RecipeError, match="classifier"):
        Projector(network, CONFIG)
    with pytest.raises(RecipeError, match="nothing would guide"):
        Projector(network, replace(CONFIG, gda=GDAConfig(entropy_weight=0.0, content_weight=0.0)))
    styled = replace(CONFIG, gda=GDAConfig(style_weight=1.0))
    with pytest.raises(WeightsError, match="CLIP"):
        Projector(network, styled, classifier=classifier)
    with pytest.raises(WeightsError):
        Projector(
            network,
            replace(CONFIG, gda=GDAConfig(style_weight=1.0, clip="no/such-clip")),
            classifier=classifier,
        )


def test_a_clip_folder_gives_a_differentiable_style(tmp_path):
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    words = ["a</w>", "clean</w>", "photo</w>", "<|startoftext|>", "<|endoftext|>"]
    letters = [c + end for c in "aclenphot" for end in ("", "</w>") if c + end not in words]
    vocabulary = {w: i for i, w in enumerate(words + letters)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=16)
    tokenizer.save_pretrained(tmp_path)
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = dict(small, vocab_size=len(vocabulary), max_position_embeddings=16, eos_token_id=4, bos_token_id=3)
    vision = dict(small, image_size=16, patch_size=8)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    style = clip_style(GDAConfig(clip=str(tmp_path)), torch.device("cpu"))
    x = torch.rand(2, 1, 32, 32, requires_grad=True)
    value = style(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.shape == (2,) and (value >= 0).all() and (value <= 2).all()
    assert gradient.abs().sum() > 0
