"""What every segmentation network keeps to, whatever its architecture and backbone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffadapt.core.config import strict_precision, to_dict
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.normalisation import with_normalisation
from diffadapt.models.segmentation.build import build_segmenter
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.folder import load_segmenter, save_segmenter

CLASSES = ClassTable(
    "toy", ("road", "sky", "tree"), ((9, 9, 9), (0, 0, 255), (0, 99, 0)), (0, 1, 2), (0, 1, 2)
)
NETWORKS = [
    ("deeplabv3plus", "timm:test_resnet"),
    ("deeplabv3plus", "timm:mobilenetv2_035"),
    ("deeplabv3plus", "timm:cifar_resnet8"),
    ("refinenet", "timm:test_efficientnet"),
    ("refinenet", "timm:cifar_resnet8"),
    ("deeplabv3plus_2conv", "timm:test_resnet"),
    ("refinenet_2pool", "timm:cifar_resnet8"),
    ("segformer", "folder"),
    ("linear", "test_vit"),
    ("linear", "timm:test_vit4"),
]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda n: "-".join(n).replace(":", "-"))
def config(request, tmp_path_factory):
    arch, backbone = request.param
    if backbone == "folder":
        from transformers import SegformerConfig

        folder = tmp_path_factory.mktemp("mit")
        SegformerConfig(
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 16, 24, 32],
            num_attention_heads=[1, 2, 3, 4],
            drop_path_rate=0.0,
        ).save_pretrained(folder)
        backbone = str(folder)
    return SegmenterConfig(arch=arch, backbone=backbone, weights="none", width=16, size=(32, 64))


def made(config, seed=0):
    torch.manual_seed(seed)
    return build_segmenter(config, len(CLASSES))


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_have_the_images_size_and_features_are_maps(config):
    net = made(config).eval()
    assert net.outputs == 4
    for height, width in ((65, 97), (32, 64), (64, 64)):
        with torch.no_grad():
            logits, features = net(images(2, 3, height, width))
        assert (
            logits.shape == (2, 4, height, width)
            and logits.dtype == torch.float32
            and torch.isfinite(logits).all()
        )
        assert features.ndim == 4 and len(features) == 2 and features.shape[-1] < width
    assert made(SegmenterConfig(**{**vars(config), "void_channel": False})).outputs == 3


def test_every_parameter_gets_a_gradient_and_belongs_to_one_group(config):
    net = made(config)
    for (
        module
    ) in net.modules():  # the last norm of a residual block begins at zero and would hold its branch back
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1.0)
    logits, features = net(images(2, 3, 65, 97))
    (
        F.cross_entropy(logits, torch.randint(0, 4, (2, 65, 97), generator=torch.Generator().manual_seed(0)))
        + features.square().mean()
    ).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    untouched = [n for n, p in net.named_parameters() if not p.grad.abs().max() > 0]
    assert [
        n for n in untouched if not n.endswith(("k_proj.bias", "key.bias"))
    ] == []  # softmax over keys cancels a bias of all of them
    groups = [*net.backbone_parameters(), *net.head_parameters()]
    assert len({id(p) for p in groups}) == len(groups) == len(list(net.parameters()))


def test_an_image_does_not_depend_on_its_batch_mates(config):
    net, x = made(config).eval(), images(3, 3, 48, 80)
    with torch.no_grad():
        together, alone = net(x)[0][1], net(x[1:2])[0][0]
    assert torch.allclose(together, alone, atol=1e-4)


def test_seeds_decide_the_weights(config):
    first, same, other = (made(config, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_training_lowers_the_loss(config):
    net, x = made(SegmenterConfig(**{**vars(config), "dropout": 0.0})), images(4, 3, 32, 64)
    labels = torch.zeros(4, 32, 64, dtype=torch.long)
    labels[:2, :, 32:] = labels[2:, :, :32] = 1
    x = x + 2 * labels[:, None]
    labels[:, :4] = 255
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(net(x)[0], labels, ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_frozen_backbone_stays_as_it_is(config):
    net = made(SegmenterConfig(**{**vars(config), "frozen": True})).train()
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    logits, features = net(images(2, 3, 32, 64))
    logits.square().mean().backward()
    assert (
        not features.requires_grad
        and list(net.backbone_parameters()) == []
        and all(p.grad is not None for p in net.head_parameters())
    )
    assert net.training and net.head.training and not net.backbone.training
    assert all(torch.equal(before[k], v) for k, v in net.backbone.state_dict().items())


def test_a_folder_gives_the_same_network_without_what_it_was_built_from(config, tmp_path, monkeypatch):
    net = made(config)
    net(images(2, 3, 32, 64))  # batch norms have statistics
    save_segmenter(net, tmp_path / "fitted", config, CLASSES, {"selection": "last"})
    monkeypatch.chdir(tmp_path)
    loaded, known, classes, extra = load_segmenter("fitted")
    x = images(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], net.eval()(x)[0])
    assert not loaded.training and classes == CLASSES and extra == {"selection": "last"}
    # what the recipe leaves to the weights, or to the device, is stated in the folder
    stated = strict_precision(with_normalisation(config))
    assert {k: v for k, v in to_dict(known).items() if k != "backbone"} == {
        k: v for k, v in to_dict(stated).items() if k != "backbone"
    }
    assert str(tmp_path.parent) not in (tmp_path / "fitted" / "segmenter.json").read_text()
    again = save_segmenter(loaded, tmp_path / "again", known, classes, extra)
    for name in ("model.safetensors", "segmenter.json", "README.md"):
        assert (again / name).read_bytes() == (tmp_path / "fitted" / name).read_bytes()
