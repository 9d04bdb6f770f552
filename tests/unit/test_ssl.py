"""Semi-supervised training: what it gains, exact resume, workers, edge cases; the methods' own parts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from diffadapt.compute.progress import Progress
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.methods.ssl.base import SslBatch
from diffadapt.methods.ssl.config import METHODS, SslConfig
from diffadapt.methods.ssl.fixmatch import FixMatch
from diffadapt.methods.ssl.flexmatch import learning_status
from diffadapt.methods.ssl.freematch import fairness_loss
from diffadapt.methods.ssl.layers import interleave_order, interleaved
from diffadapt.methods.ssl.mixmatch import MixMatch, mix
from diffadapt.tasks.classification.semi_supervised import fit_ssl, with_features
from diffadapt.tasks.classification.ssl_batches import PseudoLabels, SslBatches
from diffadapt.train.candidates import Chooser, TargetJudge, candidate_steps
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.step_batches import Share
from tests.unit import sslkit
from tests.workers import in_two_workers

LEAN = {
    "fixmatch": {"threshold": 0.9},
    "flexmatch": {"threshold": 0.9},
    "freematch": {"momentum": 0.9},
    "softmatch": {"momentum": 0.9},
}


@pytest.fixture(scope="module")
def target():
    return sslkit.clusters(seed=2)


def train(views, head, method, reporter=None, folder=None, chooser=None, on_step=None, parts=None, **changes):
    """A copy of ``head``, trained, and the metrics."""
    head = copy.deepcopy(head)
    confident, labels, unconfident = parts or sslkit.split(head, views)
    config = sslkit.config(method, **{**LEAN.get(method, {}), **changes})
    checkpoints = Checkpoints(str(folder)) if folder else None
    metrics = fit_ssl(
        views,
        PseudoLabels(confident, labels, unconfident),
        head,
        sslkit.CLASSES,
        config,
        TrainingRun(reporter or LocalReporter(), checkpoints, on_step=on_step, chooser=chooser),
    )
    return head, metrics


def same(a, b, tolerance=0.0):
    return all(torch.allclose(v.double(), b[k].double(), rtol=0, atol=tolerance) for k, v in a.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_improves_on_the_pseudo_labels(target, method):
    start = sslkit.biased_head(target, seed=2)
    before = sslkit.accuracy(start, target)
    seen = []
    head, metrics = train(
        target,
        start,
        method,
        on_step=lambda step, scalars: seen.append(scalars.get("labelled", scalars["loss"])),
    )
    assert sslkit.accuracy(head, target) > before + 0.03
    assert len(seen) == 160 and (method == "mixmatch" or np.mean(seen[-20:]) < 0.9 * np.mean(seen[:20]))
    assert (
        metrics["confident"] + metrics["unconfident"] == len(target)
        and metrics["warnings"] == []
        and not head.training
    )


@pytest.mark.parametrize("method", METHODS)
def test_target_labels_change_nothing(target, method):
    start = sslkit.biased_head(target, hidden=8)
    parts = sslkit.split(start, target)
    permuted = copy.copy(target)
    permuted.labels = np.roll(target.labels, 1)
    heads = [
        train(views, start, method, parts=parts, epochs=1, steps_per_epoch=5)[0]
        for views in (target, permuted)
    ]
    assert same(heads[0].state_dict(), heads[1].state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_resumes_to_the_same_bits(target, method, tmp_path):
    start = sslkit.biased_head(target, hidden=8)
    short = {"epochs": 2, "steps_per_epoch": 8, "checkpoint_every": 5}
    whole, wanted = train(target, start, method, folder=tmp_path / "a", **short)

    def kill(step, scalars):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(target, start, method, folder=tmp_path / "b", on_step=kill, **short)
    resumed, found = train(target, start, method, folder=tmp_path / "b", **short)
    assert found["resumed_from"] == 10 and found["loss"] == wanted["loss"]
    assert same(whole.state_dict(), resumed.state_dict())


def test_the_average_predicts(target):
    start = sslkit.biased_head(target)
    short = {"epochs": 1, "steps_per_epoch": 6}
    averaged, plain = (train(target, start, "fixmatch", ema=ema, **short)[0] for ema in (0.999, 0.0))
    moved = [(h.state_dict()["0.weight"] - start.state_dict()["0.weight"]).norm() for h in (averaged, plain)]
    assert 0 < moved[0] < moved[1]


def test_head_and_body_have_their_rates(target):
    class Body(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.body, self.fc = nn.Linear(sslkit.WIDTH, sslkit.WIDTH), head[0]

        def get_classifier(self):
            return self.fc

        def forward(self, x):
            return self.fc(self.body(x))

    torch.manual_seed(0)
    start = Body(sslkit.biased_head(target))
    parts = sslkit.split(start, target)
    still, _ = train(target, start, "pseudo_label", parts=parts, epochs=1, steps_per_epoch=3, backbone_lr=0.0)
    assert same(start.body.state_dict(), still.body.state_dict()) and not same(
        start.fc.state_dict(), still.fc.state_dict()
    )
    x = torch.randn(3, sslkit.WIDTH)
    logits, features = with_features(start, x)
    assert torch.equal(features, start.body(x)) and torch.equal(logits, start(x))


def test_no_confident_image_is_an_error_and_no_unconfident_a_warning(target):
    head = sslkit.biased_head(target)
    confident, labels, unconfident = sslkit.split(head, target)
    none = np.zeros(0, np.int64)
    with pytest.raises(DataError, match="No image of the target is confident enough"):
        train(target, head, "fixmatch", parts=(none, none, unconfident))
    for method in METHODS:
        short = {"epochs": 1, "steps_per_epoch": 3}
        _, metrics = train(target, head, method, parts=(confident, labels, none), **short)
        assert len(metrics["warnings"]) == (method != "pseudo_label") and np.isfinite(metrics["loss"])
    with pytest.raises(DataError, match="run from 0 to 9"):
        train(target, head, "fixmatch", parts=(confident, np.where(labels == 1, 9, labels), unconfident))


@pytest.mark.parametrize("method", METHODS)
def test_sets_smaller_than_a_batch(target, method):
    head = sslkit.biased_head(target)
    confident, labels, unconfident = sslkit.split(head, target)
    _, metrics = train(
        target,
        head,
        method,
        parts=(confident[:3], labels[:3], unconfident[:2]),
        epochs=1,
        steps_per_epoch=3,
        mu=2,
    )
    assert np.isfinite(metrics["loss"]) and metrics["warnings"][0].startswith(
        "The target has 3 confident images, fewer than a batch of 24"
    )


def test_a_batch_that_cannot_be_shared_is_refused(target):
    class Three(LocalReporter):
        world_size = 3

    with pytest.raises(RecipeError, match="cannot be shared evenly by 3 workers"):
        train(target, sslkit.biased_head(target), "fixmatch", Three(), batch_size=16)


def test_batches_depend_on_seed_and_step_alone_and_workers_part_them(target):
    labels = np.arange(50) % 4
    split = PseudoLabels(np.arange(50), labels, np.arange(50, 240))

    def batches(rank=0, world=1, seed=0, readers=0):
        config = sslkit.config("mixmatch", batch_size=8, seed=seed)
        return SslBatches(target, split, MixMatch(mu=2), config, Share(rank, world, readers))

    one = batches()
    late = one(7, 0)
    for step in range(7):
        one(step, 0)
    assert torch.equal(batches()(7, 0).x, late.x) and not torch.equal(batches(seed=1)(7, 0).x, late.x)
    with batches(readers=2) as ahead:
        for step in range(8):
            read = ahead(step, 0)
    assert torch.equal(read.x, late.x) and all(
        torch.equal(a, b) for a, b in zip(read.weak, late.weak, strict=True)
    )
    halves = [batches(rank, 2)(7, 0) for rank in range(2)]
    for name in ("x", "y", "index"):
        assert torch.equal(torch.cat([getattr(h, name) for h in halves]), getattr(late, name))
    for i in range(2):
        assert torch.equal(torch.cat([h.weak[i] for h in halves]), late.weak[i])
    assert len(late.x) == 8 and len(late.weak) == 2 and len(late.weak[0]) == 16 and late.strong == ()
    assert torch.equal(
        late.y,
        torch.from_numpy(labels)[
            [int(np.argmin(np.abs(target.cached["weak"][:50] - x.numpy()).sum(2).min(1))) for x in late.x]
        ],
    )


def test_epochs_show_every_unconfident_image(target):
    split = PseudoLabels(np.arange(40), np.zeros(40), np.arange(40, 240))
    stream = SslBatches(target, split, FixMatch(), sslkit.config("fixmatch", batch_size=8, seed=0))
    assert sorted(torch.cat([stream(step, 0).index for step in range(25)]).tolist()) == list(range(200))


def test_the_epoch_is_chosen_without_labels(target, tmp_path):
    start = sslkit.biased_head(target)
    steps = candidate_steps(4, 10, 4)
    chooser = Chooser(str(tmp_path / "c"), steps, TargetJudge("im", target, None, sslkit.CLASSES, "cpu"))
    states = {}

    def keep(step, scalars):
        if step in steps:
            states[step] = scalars["loss"]

    head, metrics = train(
        target,
        start,
        "fixmatch",
        chooser=chooser,
        folder=tmp_path / "c",
        on_step=keep,
        epochs=4,
        steps_per_epoch=10,
    )
    chosen = metrics["selection"]
    assert chosen["rule"] == "im" and set(chosen["scores"]) == {str(s) for s in steps}
    plain, _ = train(target, start, "fixmatch", epochs=4, steps_per_epoch=10)
    shorter = chosen["chosen_step"] == 40
    assert same(plain.state_dict(), head.state_dict()) == shorter and states


UNCOUPLED = [m for m, cls in METHODS.items() if not cls.batch_coupled]


def _hidden(method):
    """Without batch norm where labelled and unlabelled images pass apart, with it (synchronised) where they
    pass together."""
    return 0 if method in ("fixmatch", "pseudo_label") else 8


def _worker(rank, folder):
    views, found = sslkit.clusters(seed=2), {}
    for method in UNCOUPLED:
        start = sslkit.biased_head(views, hidden=_hidden(method))
        head, metrics = train(
            views, start, method, DistributedReporter(), epochs=1, steps_per_epoch=12, sync_batch_norm=True
        )
        found[method] = (head.state_dict(), metrics["loss"])
    torch.save(found, f"{folder}/{rank}.pt")


def test_two_workers_equal_one(target, tmp_path):
    in_two_workers(_worker, tmp_path)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for method in UNCOUPLED:
        one, metrics = train(
            target, sslkit.biased_head(target, hidden=_hidden(method)), method, epochs=1, steps_per_epoch=12
        )
        for found in both:
            state, loss = found[method]
            assert same(state, one.state_dict(), 2e-5) and loss == pytest.approx(metrics["loss"], abs=2e-5), (
                method
            )


def test_mixmatch_says_why_workers_differ():
    assert "mixes its own images" in MixMatch.batch_coupled


@pytest.mark.parametrize(("size", "parts"), [(6, 3), (5, 3), (2, 3), (1, 4), (8, 5)])
def test_interleaving_undoes_itself_and_spreads_the_labelled(size, parts):
    order = interleave_order(size, parts)
    assert sorted(order) == list(range(size * parts)) and [order[i] for i in order] == list(
        range(size * parts)
    )
    if size >= parts:
        assert all(any(i < size for i in order[p * size : (p + 1) * size]) for p in range(parts))
    rows = torch.arange(size * parts)[:, None].float().split(size)
    assert all(torch.equal(a, b) for a, b in zip(interleaved(nn.Identity(), rows), rows, strict=True))


def test_mixing_keeps_the_larger_share_of_the_first():
    x, y = torch.arange(4.0)[:, None], torch.eye(4)
    order = torch.tensor([1, 2, 3, 0])
    for coefficient in (0.1, 0.9):
        mixed, targets = mix(x, y, torch.tensor(coefficient), order)
        assert torch.allclose(mixed, 0.9 * x + 0.1 * x[order]) and torch.allclose(
            targets, 0.9 * y + 0.1 * y[order]
        )


def test_mixmatch_turns_its_unlabelled_loss_up():
    net = nn.Sequential(nn.Linear(6, 4))
    batch = SslBatch(
        torch.randn(6, 6), torch.arange(6) % 4, (torch.randn(6, 6), torch.randn(6, 6)), (), torch.arange(6)
    )
    weights = [
        float(MixMatch().losses(net, batch, Progress(step, 100, 10))["weight"]) for step in (0, 20, 40, 100)
    ]
    assert weights == [0.0, 5.0, 10.0, 10.0]
    assert MixMatch(unsup_warm_up=1.0).ramp(Progress(50, 100, 10)) == 0.5
    assert MixMatch(unsup_warm_up=0.0).ramp(Progress(0, 100, 10)) == 1.0


@pytest.mark.parametrize("forward", ["separate", "interleave"])
def test_mixmatch_moves_the_running_averages_by_the_labelled_part_alone(forward):
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))
    x, u = torch.randn(5, 6), torch.randn(5, 6) + 3
    batch = SslBatch(x, torch.arange(5) % 4, (u, u + 1), (), torch.arange(5))
    method, nobody = MixMatch(forward=forward), torch.arange(15)  # each is mixed with itself
    method.mixed_losses(net, batch, torch.tensor(0.7), nobody, 1.0)
    assert net[0].track_running_stats
    if forward == "separate":
        torch.testing.assert_close(net[0].running_mean, 0.1 * x.mean(0))
    else:
        assert (net[0].running_mean > 0.1 * x.mean(0) + 0.5).all()


def test_fixmatch_uses_confident_weak_views_alone_and_divides_by_all():
    weak, strong = torch.tensor([[9.0, 0.0], [0.4, 0.0], [0.0, 9.0]]), torch.randn(3, 2, requires_grad=True)
    batch = SslBatch(torch.zeros(1, 2), torch.tensor([0]), (weak,), (strong,), torch.arange(3))
    found = FixMatch().losses(nn.Identity(), batch, Progress(0, 1, 1))
    by_hand = nn.functional.cross_entropy(strong[[0, 2]], torch.tensor([0, 1]), reduction="sum") / 3
    assert torch.allclose(found["unlabelled"], by_hand) and found["used"] == pytest.approx(2 / 3)


def test_flexmatch_lowers_the_threshold_of_neglected_classes():
    predicted = torch.tensor([0, 0, 0, 0, 1, -1, -1, -1])
    assert learning_status(predicted, 3, True).tolist() == [1.0, 0.25, 0.0]
    assert learning_status(torch.full((8,), -1), 3, False).tolist() == [0.0, 0.0, 0.0]


def test_fairness_without_a_used_view_is_zero_with_a_finite_gradient():
    strong = torch.randn(4, 3, requires_grad=True)
    uniform = torch.full((3,), 1 / 3)
    loss = fairness_loss(strong, torch.zeros(4), uniform, uniform)
    loss.backward()
    assert loss == 0 and torch.equal(strong.grad, torch.zeros(4, 3))


def test_settings_of_other_methods_fork_nothing():
    base = SslConfig()
    assert replace(base, mixmatch=MixMatch(alpha=0.5)).identity() == base.identity()
    assert replace(base, fixmatch=FixMatch(threshold=0.9)).identity() != base.identity()
    assert replace(base, scale=(0.2, 1.0)).identity() != base.identity()
    shifted = replace(base, augment="shift")
    assert (
        replace(shifted, scale=(0.2, 1.0)).identity() == shifted.identity()
        and "scale" not in shifted.identity()
    )
