"""Stage 1's training: batches, target labels, resume, workers, SAM, synchronised batch norm, selection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from udakit import CLASSES, accuracy, same, vectors, views

from diffadapt.compute.progress import Progress
from diffadapt.compute.sync_batch_norm import separate, synchronise
from diffadapt.core.errors import DataError, RecipeError, ResourceError
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.methods.uda.config import METHODS, UdaConfig
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.tasks.classification.adaptation import FROZEN_BOTTLENECK, Reader, fit_uda, method_of
from diffadapt.train.candidates import Chooser, TargetJudge, candidate_steps
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.pair_batches import PairBatches, cycled
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.step_batches import Share
from tests.workers import in_two_workers

SMALL = {
    "dann": METHODS["dann"](hidden=32, bottleneck=16, reversal_steps=100),
    "cdan": METHODS["cdan"](hidden=32, bottleneck=16, reversal_steps=100),
    "mcd": METHODS["mcd"](hidden=32, bottleneck=16, features_momentum=0.9),
    "symnets": METHODS["symnets"](bottleneck=16),
    "mcc": METHODS["mcc"](bottleneck=32),
    "cdan_mcc": METHODS["cdan_mcc"](hidden=32, bottleneck=16, reversal_steps=100),
}
QUICK = UdaConfig(
    method="dann", batch_size=12, epochs=2, steps_per_epoch=5, lr=0.01, checkpoint_every=3, **SMALL
)


def domains(seed: int = 0, count: int = 180):
    (xs, ys), (xt, yt) = vectors(count, seed=seed)
    return views(xs, ys, "s"), views(xt, yt, "t")


def fit(config=QUICK, source=None, target=None, folder=None, **more):
    if source is None:
        source, target = domains()
    checkpoints = Checkpoints(str(folder)) if folder else None
    return fit_uda(
        source,
        target,
        nn.Identity(),
        8,
        CLASSES,
        config,
        TrainingRun(more.pop("reporter", None) or LocalReporter(), checkpoints, **more),
    )


@pytest.mark.parametrize("method", ["dann", "cdan", "mcd", "symnets", "mcc"])
def test_every_method_beats_source_only_on_a_shift(method):
    gains = []
    for seed in (0, 1):
        source, target = domains(seed)
        config = replace(QUICK, epochs=5, steps_per_epoch=30, batch_size=30)
        x, y = target.cached["test"][:, 0], target.labels
        plain, _ = fit(replace(config, method="source_only"), source, target)
        adapted, last = fit(replace(config, method=method), source, target)
        assert np.isfinite(last["loss"])
        gains.append(accuracy(adapted, x, y) - accuracy(plain, x, y))
    assert np.mean(gains) > 0.03, gains


def test_target_labels_are_never_read():
    class Sealed:
        """Views whose labels may not be looked at."""

        def __init__(self, inner):
            self.inner, self.keys = inner, inner.keys

        def __len__(self):
            return len(self.inner)

        def get(self, *what):
            return self.inner.get(*what)

        @property
        def labels(self):
            raise AssertionError("the target's labels were read")

    source, target = domains()
    steps = candidate_steps(2, 5, 2)
    for method in METHODS:
        if METHODS[method].backbone_kind == "any":
            fit(replace(QUICK, method=method), source, Sealed(target))
    fit(
        QUICK,
        source,
        Sealed(target),
        chooser=Chooser("memory://sealed", steps, TargetJudge("im", Sealed(target), None, CLASSES, "cpu")),
    )


def test_batches_are_epochs_of_permutations():
    seen = np.concatenate([cycled(25, 6, step, 3, "source") for step in range(4)])
    assert len(set(seen)) == 24 and set(seen) < set(range(25)), (
        "an epoch holds no item twice; its incomplete batch is dropped"
    )
    assert not np.array_equal(cycled(25, 6, 0, 3, "source"), cycled(25, 6, 4, 3, "source"))
    assert not np.array_equal(cycled(25, 6, 0, 3, "source"), cycled(25, 6, 0, 3, "target"))
    few = cycled(5, 12, 7, 3, "target")
    assert len(few) == 12 and np.bincount(few, minlength=5).min() == 2


def test_batches_do_not_depend_on_order_workers_or_readers():
    source, target = domains()
    net = AdaptationNetwork(nn.Identity(), 8, CLASSES, SMALL["dann"])
    whole = PairBatches(source, target, QUICK, net)
    wanted = [whole.make(step) for step in range(3)]
    with PairBatches(source, target, QUICK, net, Share(readers=3)) as ahead:
        for step in (0, 1, 2, 0, 2):
            assert all(torch.equal(a, b) for a, b in zip(ahead(step), wanted[step], strict=True))
    parts = [PairBatches(source, target, QUICK, net, Share(rank, 3))(1) for rank in range(3)]
    assert all(torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), wanted[1], strict=True))
    assert torch.equal(wanted[1].y_s, torch.from_numpy(source.labels)[wanted[1].i_s])
    alone = PairBatches(
        source, target, QUICK, AdaptationNetwork(nn.Identity(), 8, CLASSES, METHODS["source_only"]())
    )(0)
    assert len(alone.x_s) == 12 and len(alone.x_t) == 0


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    for method, sdat in (("mcd", 0.0), ("cdan", 0.05)):
        config = replace(QUICK, method=method, sdat=sdat)
        whole, result = fit(config, folder=tmp_path / f"{method}-a")

        def kill(step, scalars):
            if step == 7:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(config, folder=tmp_path / f"{method}-b", on_step=kill)
        torch.randn(5)
        resumed, again = fit(config, folder=tmp_path / f"{method}-b")
        assert again["resumed_from"] == 6 and again["loss"] == result["loss"]
        assert same(whole.state_dict(), resumed.state_dict())


def test_seeds_decide_and_the_callers_generator_does_not():
    first, _ = fit()
    torch.randn(3)
    second, _ = fit()
    other, _ = fit(replace(QUICK, seed=1))
    assert same(first.state_dict(), second.state_dict()) and not same(first.state_dict(), other.state_dict())


def _methods_of_workers() -> list[tuple[str, dict]]:
    return [
        ("dann", {}),
        ("cdan", {"entropy": True}),
        ("mcd", {"dropout": 0.0}),
        ("symnets", {"bottleneck": 16}),
        ("mcc", {}),
    ]


def _configs(double: bool = False):
    for name, changes in _methods_of_workers():
        config = replace(
            QUICK,
            method=name,
            epochs=1,
            steps_per_epoch=4,
            sync_batch_norm=True,
            sdat=0.0 if name == "mcd" else 0.05,
        )
        yield name, replace(config, **{name: replace(getattr(config, name), **changes)})


def _worker(rank, folder):
    for name, config in _configs():
        net, last = fit(config, folder=f"{folder}/{name}", reporter=DistributedReporter())
        torch.save({"net": net.state_dict(), "loss": last["loss"]}, f"{folder}/{name}-{rank}.pt")
    x = torch.arange(24.0).reshape(6, 4).sin()[3 * rank : 3 * rank + 3].requires_grad_(True)
    layer = synchronise(nn.Sequential(nn.BatchNorm1d(4)))
    layer(x).square().mul(torch.arange(4.0)).sum().backward()
    torch.save({"grad": x.grad, "state": layer.state_dict()}, f"{folder}/bn-{rank}.pt")
    net = AdaptationNetwork(nn.Identity(), 8, CLASSES, SMALL["dann"]).eval()
    source, target = domains(count=27)
    torch.nn.init.eye_(net.bottleneck[0].weight)
    torch.save(
        torch.from_numpy(Reader(source, target, net, QUICK, torch.device("cpu"), batch=4).features("target")),
        f"{folder}/features-{rank}.pt",
    )


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    in_two_workers(_worker, folder)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", [n for n, _ in _methods_of_workers()])
def test_two_workers_equal_one_on_the_same_global_batch(two_workers, name):
    """With synchronised batch norm and without dropout; SAM included where the method has one pass."""
    net, last = fit(dict(_configs())[name])
    ranks = two_workers(name)
    for key, value in net.state_dict().items():
        assert torch.equal(ranks[0]["net"][key], ranks[1]["net"][key])
        torch.testing.assert_close(ranks[0]["net"][key], value, atol=2e-5, rtol=1e-4)
    assert ranks[0]["loss"] == pytest.approx(last["loss"], abs=1e-5)


def test_synchronised_batch_norm_equals_one_worker(two_workers):
    x = torch.arange(24.0).reshape(6, 4).sin().requires_grad_(True)
    layer = nn.Sequential(nn.BatchNorm1d(4))
    layer(x).square().mul(torch.arange(4.0)).sum().backward()
    ranks = two_workers("bn")
    torch.testing.assert_close(torch.cat([r["grad"] for r in ranks]), x.grad, atol=1e-5, rtol=1e-4)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(ranks[1]["state"][key], value)


def test_workers_share_the_reading_of_features(two_workers):
    first, second = two_workers("features")
    assert torch.equal(first, second) and first.shape == (27, 16)


def test_synchronised_layers_change_back():
    import timm

    model = timm.create_model("mobilenetv2_035", num_classes=2)
    kinds, keys = [type(m) for m in model.modules()], list(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    wanted = model.eval()(x)
    synchronise(model)
    assert list(model.state_dict()) == keys and torch.equal(model(x), wanted)
    assert [type(m) for m in model.modules()] != kinds and [
        type(m) for m in separate(model).modules()
    ] == kinds


def test_sdat_ascends_with_the_task_loss_alone():
    seen = {}
    reporter = LocalReporter(on_report=lambda step, total, scalars: seen.update({step: scalars}))
    fit(replace(QUICK, method="cdan_mcc", sdat=0.05), reporter=reporter)
    assert seen[1]["sharpness_task"] > seen[1]["task"] > 0, (
        "MCC's confusion counts to the task that is ascended"
    )
    fit(replace(QUICK, sdat=0.05), reporter=reporter)
    assert {"sharpness_task", "loss_sharpness", "loss", "task", "domain"} <= set(seen[1])
    assert seen[1]["task"] > seen[1]["sharpness_task"], "the task loss is larger where the ascent ended"
    plain, _ = fit()
    sharp, _ = fit(replace(QUICK, sdat=0.05))
    assert not same(plain.state_dict(), sharp.state_dict())
    with pytest.raises(RecipeError, match="Mcd makes 6 updates"):
        METHODS["mcd"]().passes_with(0.02)


def test_mcd_moves_only_the_named_groups():
    moved = {}

    class Watched(METHODS["mcd"]):
        def losses(self, net, batch, progress):
            heads = torch.cat([p.detach().flatten().clone() for p in net.head.parameters()])
            features = net.bottleneck[0].weight.detach().clone()
            moved.setdefault(progress.name, []).append((heads, features))
            return super().losses(net, batch, progress)

    config = replace(QUICK, method="mcd", epochs=1, steps_per_epoch=1, mcd=Watched(hidden=8, bottleneck=4))
    fit(config)
    assert list(moved) == ["task", "diverge", "agree"] and len(moved["agree"]) == 4
    diverge, agree = moved["diverge"][0], moved["agree"]
    assert torch.equal(diverge[1], agree[0][1]) and not torch.equal(diverge[0], agree[0][0]), (
        "B moves the heads alone"
    )
    assert torch.equal(agree[0][0], agree[3][0]) and not torch.equal(agree[0][1], agree[3][1]), (
        "C moves the features alone"
    )


def test_symnets_gradients_are_split():
    method = METHODS["symnets"](bottleneck=4)
    net = AdaptationNetwork(nn.Identity(), 8, CLASSES, method)
    source, target = domains()
    batch = PairBatches(source, target, QUICK, net)(0)
    losses = method.losses(net, batch, Progress(1, 2, 1))
    assert (
        torch.autograd.grad(
            losses["classifiers"], net.bottleneck[0].weight, retain_graph=True, allow_unused=True
        )[0]
        is None
    )
    assert torch.autograd.grad(losses["features"], net.head.weight, allow_unused=True)[0] is None


def test_symnets_normalises_each_domain_by_itself():
    method = METHODS["symnets"](bottleneck=4)
    net = AdaptationNetwork(nn.Identity(), 8, CLASSES, method)
    batch = PairBatches(*domains(), QUICK, net)(0)
    norm = net.bottleneck[1]
    method.losses(net, batch, Progress(1, 2, 1))
    with torch.no_grad():
        first, second = (net.bottleneck[0](x).mean(0) for x in (batch.x_s, batch.x_t))
    torch.testing.assert_close(norm.running_mean, 0.1 * (0.9 * first + second))
    assert norm.num_batches_tracked == 2


def test_an_epoch_may_be_one_pass_over_the_larger_set():
    source, target = domains(count=60)
    seen = []
    run = dict(on_step=lambda step, scalars: seen.append(step))
    whole, last = fit(replace(QUICK, steps_per_epoch=0), source, target, **run)
    assert seen[-1] == last["steps"] == 2 * (60 // 12)
    fixed, _ = fit(replace(QUICK, steps_per_epoch=5), source, target)
    assert same(whole.state_dict(), fixed.state_dict())


@pytest.mark.parametrize("rule", ["im", "last"])
def test_the_chosen_weights_are_kept(tmp_path, rule):
    source, target = domains()
    steps = candidate_steps(2, 5, 2)
    chooser = Chooser(str(tmp_path), steps, TargetJudge(rule, target, None, CLASSES, "cpu"))
    at = {}
    config = replace(QUICK, checkpoint_every=100)
    net, result = fit(
        config, source, target, chooser=chooser, on_step=lambda step, s: at.update({step: None})
    )
    chosen = result["selection"]["chosen_step"]
    assert chosen in ([5, 10] if rule == "im" else [None]) and not net.training
    expected, _ = fit(replace(config, epochs=2), source, target)
    if chosen in (10, None):
        assert same(net.state_dict(), expected.state_dict())
    else:
        assert not same(net.state_dict(), expected.state_dict())


def test_frozen_features_get_a_bottleneck_where_they_must_move():
    assert method_of(UdaConfig(method="symnets"), frozen=True).bottleneck == FROZEN_BOTTLENECK
    assert method_of(UdaConfig(method="symnets"), frozen=False).bottleneck == 0
    assert method_of(replace(QUICK, method="source_only"), frozen=True).bottleneck == 0
    assert method_of(QUICK, frozen=True).bottleneck == 16 and method_of(QUICK, frozen=True).lr == 0.01


@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.05), ("fp16", 0.2)])
def test_other_precisions_train(precision, apart):
    """fp16 may skip first steps, until its loss scale fits."""
    for method in ("dann", "mcd", "symnets", "mcc"):
        _, result = fit(
            replace(
                QUICK, method=method, precision=precision, epochs=1, sdat=0.0 if method == "mcd" else 0.05
            )
        )
        _, exact = fit(replace(QUICK, method=method, epochs=1, sdat=0.0 if method == "mcd" else 0.05))
        assert result["loss"] == pytest.approx(exact["loss"], rel=apart)


def test_refresh_reads_both_sets_before_each_epoch():
    seen = []

    class Reading(UdaMethod):
        def losses(self, net, batch, progress):
            return {"loss": self.task_loss(net, batch)}

        def refresh(self, net, data, progress):
            assert not net.training
            seen.append(
                (
                    progress.step,
                    data.features("source").shape,
                    data.logits("target").shape,
                    data.source_labels[:3].tolist(),
                )
            )

    fit(replace(QUICK, dann=Reading(bottleneck=4)))
    assert seen == [(step, (180, 4), (180, CLASSES), [0, 1, 2]) for step in (0, 5)]


def test_sets_that_do_not_fit():
    source, target = domains()
    empty = views(np.zeros((0, 8), np.float32), np.zeros(0), "e")
    with pytest.raises(DataError, match="no readable target images"):
        fit(QUICK, source, empty)
    with pytest.raises(DataError, match="180 of 180 source images have no label"):
        fit(QUICK, views(source.cached["test"][:, 0], np.full(180, -1)), target)
    with pytest.raises(DataError, match="run to 3, but there are 3"):
        fit(QUICK, views(source.cached["test"][:, 0], source.labels + 1), target)


def test_a_device_out_of_memory_is_said_in_a_sentence(tmp_path):
    def full(step, scalars):
        if step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    with pytest.raises(ResourceError, match="ran out of memory in a training step: lower the batch size"):
        fit(folder=tmp_path, on_step=full)
    assert Checkpoints(str(tmp_path)).steps() == [3]


def test_few_images_are_cycled():
    (xs, ys), (xt, yt) = vectors(6)
    net, result = fit(QUICK, views(xs, ys, "s"), views(xt[:2], yt[:2], "t"))
    assert np.isfinite(result["loss"])
