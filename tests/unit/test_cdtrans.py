"""CDTrans: branches over timm's transformers, pairs, and the method in the training loop on a toy shift."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from diffadapt.compute.pairs import PairBatch
from diffadapt.compute.progress import Progress
from diffadapt.core.errors import RecipeError
from diffadapt.core.recipes import load
from diffadapt.methods.uda.cdtrans import CdTrans
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.methods.uda.source_only import SourceOnly
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.models.cdtrans import PairList, nearest, pair_up, pseudo_labels, three_branches
from diffadapt.tasks.classification.adaptation import fit_uda
from diffadapt.train.candidates import Chooser, TargetJudge
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.views import ImageViews
from tests.workers import in_two_workers

SIZE = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 0,
}


def vit(cls=VisionTransformer, seed=0, **options):
    torch.manual_seed(seed)
    return cls(**SIZE, **options)


class Strokes(ImageViews):
    """Horizontal, vertical and diagonal strokes; the target's are fainter on a brighter, noisier ground."""

    def __init__(self, target, n, seed=0):
        rng = np.random.default_rng(seed + target)
        labels = np.arange(n) % 4
        y, x = np.mgrid[:16, :16]
        images = np.zeros((n, 16, 16, 1))
        for image, label in zip(images, labels, strict=True):
            dy, dx = rng.integers(-1, 2, 2)
            image[..., 0] = (
                abs(y - 8 - dy) < 2,
                abs(x - 8 - dx) < 2,
                abs(y - x - dy) < 2,
                abs(y + x - 15 - dx) < 2,
            )[label]
        contrast, ground, noise = (0.8, 0.1, 0.25) if target else (1.0, 0.0, 0.1)
        images = images * contrast + ground + rng.normal(size=images.shape) * noise
        pixels = np.clip(images * 120 + 60, 0, 255).astype(np.uint8)
        augments = dict.fromkeys(
            ("test", "weak", "strong"), lambda image, seed: torch.from_numpy(image).permute(2, 0, 1)
        )
        super().__init__(
            pixels, labels, [str(i) for i in range(n)], augments, lambda p: (p.float() - 80) / 60
        )

    def everything(self):
        return self.get(range(len(self)), "test", [0] * len(self))

    def accuracy(self, net):
        with torch.no_grad():
            return float((net.logits(self.everything()).argmax(1).numpy() == self.labels).mean())


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (VisionTransformer, {}),
        (VisionTransformer, {"class_token": False, "global_pool": "avg"}),
        (
            VisionTransformer,
            {"qk_norm": True, "init_values": 0.1, "no_embed_class": True, "reg_tokens": 2, "pre_norm": True},
        ),
        (VisionTransformer, {"global_pool": "map"}),
        (VisionTransformerDistilled, {}),
    ],
    ids=["token", "average", "layer scale, registers", "map", "distilled"],
)
def test_branches_are_the_network_itself(cls, options):
    model = vit(cls, **options).eval()
    x_s, x_t = torch.randn(2, 3, 1, 16, 16)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(20)  # initial attention is nearly uniform, whoever asks
        f_s, f_t, f_st = three_branches(model, x_s, x_t)
        assert torch.allclose(f_s, model(x_s), atol=1e-5) and torch.allclose(f_t, model(x_t), atol=1e-5)
        assert not torch.allclose(f_st, f_t, atol=1e-3) and not torch.allclose(f_st, f_s, atol=1e-3)
        same = three_branches(model, x_s, x_s)  # a source that asks itself
        assert torch.allclose(same[2], same[0], atol=1e-5)


def test_other_networks_are_refused():
    for name in ("resnet10t", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"):
        model = timm.create_model(name, num_classes=0)
        if name.startswith("vit"):
            assert three_branches(model.eval(), torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 224, 224))[
                2
            ].shape == (1, 192)
        else:
            with pytest.raises(RecipeError, match="vision transformer"):
                three_branches(model, torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 224, 224))


def test_nearest_in_blocks_pairs_and_pseudo_labels():
    rng = np.random.default_rng(0)
    source, target = torch.from_numpy(rng.normal(size=(50, 4))), torch.from_numpy(rng.normal(size=(31, 4)))
    similar = torch.nn.functional.normalize(source, dim=1) @ torch.nn.functional.normalize(target, dim=1).T
    for block in (7, 50, 4096):
        of_source, of_target = nearest(source, target, block)
        assert (of_source == similar.argmax(1).numpy()).all() and (
            of_target == similar.argmax(0).numpy()
        ).all()
    labels, pseudo = rng.integers(3, size=50), rng.integers(3, size=31)
    s, t = pair_up(of_source, of_target, labels, pseudo)
    assert 0 < len(s) < 81 and (labels[s] == pseudo[t]).all()
    assert len(pair_up(of_source, of_target, labels, pseudo, agreeing=False)[0]) == 81
    # Two clusters, a few images mistaken by the classifier: the centres put them right; class 2 is never
    # predicted.
    truth = np.arange(40) % 2
    features = np.array([[4.0, 0], [0, 4.0]])[truth] + rng.normal(size=(40, 2)) * 0.3
    logits = 3 * np.eye(3)[np.where(np.arange(40) < 4, 1 - truth, truth)]
    assert (pseudo_labels(features, logits) == truth).all()


def test_pair_list_is_of_one_size_and_thins_what_does_not_fit():
    pairs = PairList(6)
    pairs.fill(np.arange(4), np.arange(4) + 10)
    s, t = pairs.draw(np.random.default_rng(0), 3)
    assert len(set(s)) == 3 and (t == s + 10).all()
    s, _ = pairs.draw(np.random.default_rng(0), 8)
    assert sorted(s) == [0, 0, 1, 1, 2, 2, 3, 3]
    pairs.fill(np.arange(100), np.arange(100))
    assert len(pairs) == 6 and pairs.index[0].tolist() == [0, 19, 39, 59, 79, 99]
    again = PairList(6)
    again.load_state_dict(pairs.state_dict())
    assert len(again) == 6 and torch.equal(again.index, pairs.index)


def batch(n=6):
    source, target = Strokes(0, n), Strokes(1, n)
    return PairBatch(
        source.everything(),
        torch.from_numpy(source.labels),
        target.everything(),
        torch.arange(n),
        torch.arange(n),
    )


def network(**options):
    return AdaptationNetwork(vit(), 32, 4, CdTrans(**options))


def test_distillation_reaches_the_teacher():
    scores = [torch.randn(6, 4, requires_grad=True) for _ in range(3)]
    parts = CdTrans.objective(*scores, torch.arange(6) % 4, torch.arange(6) % 4)
    assert set(parts) == {"source", "target", "distillation"}
    of_teacher, of_student = torch.autograd.grad(parts["distillation"], (scores[2], scores[1]))
    assert of_teacher.abs().max() > 1e-3 and of_student.abs().max() > 1e-3


def test_without_pairs_the_source_alone_is_learnt():
    net, progress = network(pretrain_epochs=1), Progress(12, 20, 4)
    b = batch()
    found = net(b, progress)
    assert set(found) == {"loss", "source", "accuracy"} and net.method.sample(net, progress, None, 4) is None
    other = b._replace(x_t=torch.randn_like(b.x_t))
    assert torch.equal(net(other, progress)["loss"], found["loss"])
    net.pairs.fill(np.arange(3), np.arange(3))
    paired = net(b, progress)
    assert set(paired) == {"loss", "source", "target", "distillation", "accuracy"}
    assert paired["loss"].item() == pytest.approx(
        sum(paired[k].item() for k in ("source", "target", "distillation"))
    )
    assert net.method.sample(net, progress, np.random.default_rng(0), 5)[0].shape == (5,)
    assert set(net(b, Progress(3, 20, 4))) == {"loss", "source", "accuracy"}  # still pretraining
    paired["loss"].backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


class Data:
    """Features as the engine reads them: everything, target and source alike, is predicted as one class."""

    source_labels = np.arange(8) % 4

    def features(self, domain):
        return np.tile(np.eye(32, dtype=np.float32)[:1], (8 if domain == "source" else 5, 1))


def test_pairing_comes_every_so_many_epochs_and_names_classes_without_a_pair(caplog):
    net = network(pretrain_epochs=2, pair_every=3).eval()
    filled = []
    for epoch in range(10):
        net.pairs.count.zero_()
        with caplog.at_level(logging.WARNING):
            net.method.refresh(net, Data(), Progress(epoch * 4, 40, 4))
        filled += [epoch] if len(net.pairs) else []
    assert filled == [2, 5, 8]
    assert "no pair for 3 classes in epoch 3" in caplog.text


def test_settings_that_leave_no_adaptation_are_refused():
    with pytest.raises(RecipeError, match="none of the 10 epochs"):
        fit_uda(
            Strokes(0, 8),
            Strokes(1, 8),
            vit(),
            32,
            4,
            UdaConfig(method="cdtrans", epochs=10),
            TrainingRun(LocalReporter()),
        )


def config(method=None, **options):
    given = {
        "batch_size": 16,
        "epochs": 6,
        "steps_per_epoch": 4,
        "augment": "none",
        "checkpoint_every": 5,
        **options,
    }
    return UdaConfig(
        method="cdtrans",
        cdtrans=method or CdTrans(lr=0.05, pretrain_epochs=2, warmup_epochs=1, pair_every=3),
        **given,
    )


def test_biases_learn_at_twice_the_rate_and_the_neck_has_none():
    net = network()
    groups = {g["name"]: g for g in net.parameter_groups()}
    assert {name: g["lr_scale"] for name, g in groups.items()} == {
        "backbone": 1.0,
        "backbone biases": 2.0,
        "rest": 1.0,
    }
    scaled = {id(p) for p in groups["backbone biases"]["params"]}
    biases = {id(p) for name, p in net.named_parameters() if name.endswith("bias") and p.requires_grad}
    assert scaled == biases and not net.head[0].bias.requires_grad
    assert sum(len(g["params"]) for g in groups.values()) == sum(p.requires_grad for p in net.parameters())


def test_the_neck_is_folded_into_one_linear_layer():
    net = network()
    net.head[0].running_mean.normal_()
    net.head[0].running_var.uniform_(0.5, 2.0)
    net.eval()
    with torch.no_grad():
        features = torch.randn(5, 32)
        head = net.method.exported_head(net)
        torch.testing.assert_close(head(features), net.head(features), atol=1e-5, rtol=1e-5)
    assert type(head) is torch.nn.Linear and head.bias is not None


def test_a_pass_shows_every_pair_once():
    net = network(pretrain_epochs=0)
    net.pairs.fill(np.arange(20), np.arange(20) + 100)

    def epoch(number, seed=0, steps=5):
        progress = [Progress(number * 7 + i, 70, 7, seed=seed) for i in range(steps)]
        return [net.method.sample(net, p, np.random.default_rng(0), 4) for p in progress]

    seen = np.concatenate([s for s, t in epoch(1)])
    assert sorted(seen) == list(range(20)) and all((t == s + 100).all() for s, t in epoch(1))
    assert not np.array_equal(seen, np.concatenate([s for s, _ in epoch(2)]))
    assert not np.array_equal(seen, np.concatenate([s for s, _ in epoch(1, seed=1)]))
    assert len(set(np.concatenate([s for s, _ in epoch(1, steps=7)]))) == 20  # a second pass has begun


def published(**changes):
    """The settings of the published recipe, on tiny sets."""
    uda = load("adapt_anything/cdtrans/office31").uda
    return replace(uda, batch_size=8, **changes)


def test_the_published_recipe_pairs_every_ten_epochs_and_its_epochs_are_passes(monkeypatch):
    source, target, made, filled = Strokes(0, 24), Strokes(1, 16), {}, {}
    inner = CdTrans.refresh

    def refresh(self, net, data, progress):
        before = net.pairs.index.clone()
        inner(self, net, data, progress)
        if not torch.equal(before, net.pairs.index):
            filled[progress.epoch] = len(net.pairs)

    monkeypatch.setattr(CdTrans, "refresh", refresh)
    config = published()
    longest = (24 + 16) // 8
    reporter = LocalReporter(
        on_report=lambda step, total, scalars: made.setdefault((step - 1) // longest, []).append(scalars)
    )
    net, result = fit_uda(source, target, vit(), 32, 4, config, TrainingRun(reporter))
    assert config.epochs == 50 and config.steps_per_epoch == 0 and result["steps"] == 50 * longest
    assert sorted(filled) == [10, 20, 30, 40] and min(filled.values()) > 0
    assert {len(made[e]) for e in range(10)} == {24 // 8} and not any(
        "distillation" in s for e in range(10) for s in made[e]
    )
    for epoch in range(10, 49):
        pairs = filled[epoch // 10 * 10]
        assert len(made[epoch]) == max(1, pairs // 8) and all("distillation" in s for s in made[epoch])
    rates = [made[e][0]["lr"] for e in range(50)]
    assert max(rates[20:]) > 0.7 * CdTrans().lr and rates[-1] < 0.01 * CdTrans().lr


def test_a_training_that_never_leaves_its_warm_up_says_so():
    (said,) = CdTrans().notes(20, False)
    assert "ends within its warm-up" in said and "uda.epochs 50" in said
    assert CdTrans().notes(50, False) == () and CdTrans().notes(21, False) == ()


def test_a_toy_shift_is_overcome():
    source, target = Strokes(0, 96), Strokes(1, 80)
    plain = replace(
        config(epochs=24, steps_per_epoch=12),
        method="source_only",
        source_only=SourceOnly(lr=0.05, lr_gamma=0.0, backbone_lr=1.0, weight_decay=1e-4),
    )
    baseline, _ = fit_uda(source, target, vit(), 32, 4, plain, TrainingRun(LocalReporter()))
    method = CdTrans(lr=0.05, pretrain_epochs=14, warmup_epochs=2, pair_every=4)
    net, result = fit_uda(
        source,
        target,
        vit(),
        32,
        4,
        config(method, epochs=24, steps_per_epoch=12),
        TrainingRun(LocalReporter()),
    )
    assert source.accuracy(baseline) > 0.95 and target.accuracy(baseline) < 0.9
    assert target.accuracy(net) > target.accuracy(baseline) + 0.05 and target.accuracy(net) > 0.93
    s, t = net.pairs.index[:, : len(net.pairs)].long()
    assert (source.labels[s] == target.labels[t]).mean() > 0.95
    assert result["distillation"] < 0.2


def trained(folder, kill_at=None):
    source, target = Strokes(0, 40), Strokes(1, 30)
    chooser = Chooser(str(folder), [12, 18, 24], TargetJudge("im", target, None, 4, "cpu"))

    def stop(step, scalars):
        if step == kill_at:
            raise KeyboardInterrupt

    return fit_uda(
        source,
        target,
        vit(),
        32,
        4,
        config(),
        TrainingRun(LocalReporter(), Checkpoints(str(folder)), on_step=stop, chooser=chooser),
    )


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path):
    whole, result = trained(tmp_path / "whole")
    assert len(whole.pairs) > 0 and result["selection"]["rule"] == "im"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "part", kill_at=14)  # between two pairings, after a candidate
    resumed, again = trained(tmp_path / "part")
    assert again["resumed_from"] == 10 and again["selection"] == result["selection"]
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def _worker(rank, folder):
    net, _ = fit_uda(
        Strokes(0, 40),
        Strokes(1, 30),
        vit(),
        32,
        4,
        config(sync_batch_norm=True),
        TrainingRun(DistributedReporter()),
    )
    torch.save(net.state_dict(), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_workers_equal_one(tmp_path):
    in_two_workers(_worker, tmp_path)
    one, _ = fit_uda(
        Strokes(0, 40),
        Strokes(1, 30),
        vit(),
        32,
        4,
        config(sync_batch_norm=True),
        TrainingRun(LocalReporter()),
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in one.state_dict().items():
        assert torch.equal(first[key], second[key]) and torch.allclose(first[key], value, atol=2e-4), key
