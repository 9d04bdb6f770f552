"""Training of segmenters: what each method learns, batches by key, resume, workers, the rate, and which epoch
is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from segmentationkit import INPUTS, QUICK, Toy, same, scene, toy_net

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import DataError, RecipeError, TrainingError
from diffadapt.metrics.segmentation import confusion, mean_iou, total
from diffadapt.models.segmentation.inputs import normalise, stacked
from diffadapt.tasks.segmentation.losses import METHODS, cosine, method_of, task_loss
from diffadapt.tasks.segmentation.select import SceneJudge
from diffadapt.tasks.segmentation.training import fit_segmenter, make_optimizer, poly
from diffadapt.train.candidates import Chooser, candidate_steps
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from tests.workers import in_two_workers


def fit(method="zodi", training=QUICK, folder=None, count=10, net=None, **more):
    net = net or toy_net()
    transferred = Toy(count, inverted=True).shuffled(3)
    checkpoints = Checkpoints(str(folder)) if folder else None
    found = fit_segmenter(
        more.pop("source", None) or Toy(count),
        more.pop("transferred", transferred),
        net,
        training,
        method,
        TrainingRun(more.pop("reporter", None) or LocalReporter(), checkpoints, **more),
        inputs=INPUTS,
    )
    return net, found


@torch.no_grad()
def score(net, scenes: Toy) -> float:
    logits, _ = net(normalise(stacked([image for image, _ in scenes.scenes]), INPUTS))
    found = logits.argmax(1).numpy()
    return mean_iou(total((confusion(y, p, 3) for (_, y), p in zip(scenes.scenes, found, strict=True)), 3))


@torch.no_grad()
def alike(net, count=8) -> float:
    """The mean cosine of the features of new scenes in both domains."""
    f, g = (
        net(normalise(stacked([scene(i, inverted)[0] for i in range(100, 100 + count)]), INPUTS))[1]
        for inverted in (False, True)
    )
    return float(cosine(f, g).mean())


@pytest.fixture(scope="module")
def learnt():
    """Each method's network after a short training without jitter."""
    training = replace(QUICK, epochs=12, jitter=(0.0, 0.0, 0.0, 0.0), similarity=0.5)
    return {m: fit(m, training, count=16, net=toy_net(plain=True))[0] for m in METHODS}


def test_transferred_images_teach_the_other_domain(learnt):
    here, there = Toy(8, first=200), Toy(8, inverted=True, first=200)
    assert score(learnt["source_only"], here) > 0.8 and score(learnt["source_only"], there) < 0.5
    assert score(learnt["transferred_only"], there) > 0.8 and score(learnt["transferred_only"], here) < 0.5
    for method in ("both", "zodi"):
        assert score(learnt[method], there) > 0.75 and score(learnt[method], here) > 0.75


def test_the_similarity_term_brings_features_together(learnt):
    assert alike(learnt["zodi"]) > alike(learnt["both"]) + 0.02


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("source_only", {"task_source"}),
        ("transferred_only", {"task_transferred"}),
        ("both", {"task_source", "task_transferred", "cosine"}),
        ("zodi", {"task_source", "task_transferred", "cosine", "similarity"}),
    ],
)
def test_every_step_reports_its_losses(method, names):
    seen = []
    fit(
        method,
        replace(QUICK, epochs=1),
        reporter=LocalReporter(on_report=lambda step, total, scalars: seen.append(scalars)),
    )
    assert len(seen) == 2 and all(names | {"loss", "lr", "grad_norm", "step_seconds"} == set(s) for s in seen)
    parts = {"task_source", "task_transferred", "similarity"} & names
    assert seen[0]["loss"] == pytest.approx(sum(seen[0][p] for p in parts), abs=1e-6)


def test_what_a_fit_says():
    _, found = fit()
    assert (
        found["steps"] == 8
        and found["images"] == 10
        and found["pairs"] == 10
        and found["left_out"] == {}
        and found["epochs"] == 4
    )
    _, alone = fit("source_only", transferred=None)
    assert alone["images"] == 10 and alone["pairs"] == 0


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    for method in ("zodi", "source_only"):
        whole, result = fit(method, folder=tmp_path / f"{method}-a")

        def kill(step, scalars):
            if step == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(method, folder=tmp_path / f"{method}-b", on_step=kill)
        torch.randn(5)
        resumed, again = fit(method, folder=tmp_path / f"{method}-b", net=toy_net(seed=9))
        assert again["resumed_from"] == 3 and again["loss"] == result["loss"]
        assert same(whole.state_dict(), resumed.state_dict())


def test_seeds_decide_and_neither_order_nor_the_callers_generator_does():
    first, _ = fit()
    torch.randn(3)
    second, _ = fit(transferred=Toy(10, inverted=True).shuffled(8))
    other, _ = fit(training=replace(QUICK, seed=1))
    assert same(first.state_dict(), second.state_dict()) and not same(first.state_dict(), other.state_dict())


def _worker(rank, folder):
    for name, plain, training in _shared():
        net, found = fit(
            training=training,
            net=toy_net(plain=plain),
            folder=f"{folder}/{name}",
            reporter=DistributedReporter(),
            chooser=_chooser(f"{folder}/{name}"),
        )
        torch.save(
            {"net": net.state_dict(), "loss": found["loss"], "step": found["selection"]["chosen_step"]},
            f"{folder}/{name}-{rank}.pt",
        )


def _chooser(folder):
    return Chooser(
        str(folder),
        candidate_steps(4, 2, 2),
        SceneJudge("best_source", Toy(7, first=50), 3, "cpu", batch_size=2),
    )


def _shared():
    return [("plain", True, QUICK), ("sync", False, replace(QUICK, sync_batch_norm=True))]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    in_two_workers(_worker, folder)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("name", "plain", "training"), _shared())
def test_two_workers_equal_one_on_the_same_global_batch(two_workers, tmp_path, name, plain, training):
    """Void pixels lie unevenly over the workers, so that this holds only for a mean over the pixels of the
    global batch."""
    net, found = fit(training=training, net=toy_net(plain=plain), chooser=_chooser(tmp_path))
    ranks = two_workers(name)
    for key, value in net.state_dict().items():
        assert torch.equal(ranks[0]["net"][key], ranks[1]["net"][key])
        torch.testing.assert_close(ranks[0]["net"][key], value, atol=2e-5, rtol=1e-4)
    assert ranks[0]["loss"] == pytest.approx(found["loss"], abs=1e-5)
    assert ranks[0]["step"] == ranks[1]["step"] == found["selection"]["chosen_step"]


def test_the_rate_falls_once_an_epoch_by_the_polynomial():
    rates = []
    training = replace(QUICK, lr=0.01)
    fit(training=training, on_step=lambda step, scalars: rates.append(scalars["lr"]))
    expected = [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4) for _ in range(2)]
    assert rates == pytest.approx(expected) and poly(training, 0) == 0.01


def test_the_head_has_its_own_rate_and_frozen_weights_none():
    net = toy_net()
    optimizer = make_optimizer(net, replace(QUICK, head_lr=10.0))
    assert [(g["name"], g["lr_scale"]) for g in optimizer.param_groups] == [("backbone", 1.0), ("head", 10.0)]
    assert all(g["momentum"] == 0.9 and g["weight_decay"] == 1e-4 for g in optimizer.param_groups)
    net.backbone.requires_grad_(False)
    assert [g["name"] for g in make_optimizer(net, replace(QUICK, optimizer="adamw")).param_groups] == [
        "head"
    ]
    before = [p.clone() for p in net.backbone.parameters()]
    fit(net=net)
    assert all(torch.equal(a, b) for a, b in zip(before, net.backbone.parameters(), strict=True))


def test_the_best_epoch_on_the_source_is_kept_and_a_killed_choice_goes_on(tmp_path):
    steps = candidate_steps(4, 2, 4)
    whole, result = fit(
        folder=tmp_path / "a",
        chooser=Chooser(str(tmp_path / "a"), steps, SceneJudge("best_source", Toy(6, first=50), 3, "cpu")),
    )
    chosen = result["selection"]
    assert chosen["rule"] == "best_source" and list(chosen["scores"]) == ["2", "4", "6", "8"]
    best = max(chosen["scores"].values())
    assert chosen["scores"][str(chosen["chosen_step"])] == best and score(
        whole, Toy(6, first=50)
    ) == pytest.approx(best, abs=1e-9)

    class Once(Chooser):
        made: list[int] = []

        def offer(self, step, forward, state):
            if not self._known(step):
                self.made.append(step)
            super().offer(step, forward, state)

    def kill(step, scalars):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            folder=tmp_path / "b",
            on_step=kill,
            chooser=Once(str(tmp_path / "b"), steps, SceneJudge("best_source", Toy(6, first=50), 3, "cpu")),
        )
    resumed, again = fit(
        folder=tmp_path / "b",
        chooser=Once(str(tmp_path / "b"), steps, SceneJudge("best_source", Toy(6, first=50), 3, "cpu")),
    )
    assert again["selection"] == chosen and same(whole.state_dict(), resumed.state_dict())
    assert sorted(Once.made) == [2, 4, 6, 8], "no candidate is scored twice"


def test_the_oracle_says_what_it_is(tmp_path):
    _, result = fit(
        chooser=Chooser(
            str(tmp_path),
            candidate_steps(4, 2, 2),
            SceneJudge("oracle", Toy(4, inverted=True, first=50), 3, "cpu"),
        )
    )
    assert result["selection"]["rule"] == "oracle" and "upper bound" in result["selection"]["note"]
    with pytest.raises(RecipeError, match="no selection rule 'best'"):
        Chooser(str(tmp_path), [1], SceneJudge("best", Toy(1), 3, "cpu"))
    with pytest.raises(DataError, match="needs labelled scenes of the target"):
        Chooser(str(tmp_path), [1], SceneJudge("oracle", Toy(0), 3, "cpu"))


def test_a_batch_without_a_labelled_pixel_teaches_nothing_and_breaks_nothing():
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = task_loss(logits, torch.full((2, 3, 3), IGNORED, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.05), ("fp16", 0.2)])
def test_other_precisions_train(precision, apart):
    _, result = fit(training=replace(QUICK, precision=precision, epochs=1))
    _, exact = fit(training=replace(QUICK, epochs=1))
    assert result["loss"] == pytest.approx(exact["loss"], rel=apart)


def test_sets_and_settings_that_do_not_fit():
    with pytest.raises(RecipeError, match="trains on transferred images, but there are none"):
        fit("both", transferred=None)
    with pytest.raises(DataError, match="no readable transferred scenes"):
        fit(transferred=Toy(0))
    with pytest.raises(
        DataError, match="None of the 10 source scenes and 4 transferred scenes have a key in common"
    ):
        fit(transferred=Toy(4, name="elsewhere/0"))
    with pytest.raises(RecipeError, match=r"no segmentation method 'zodia'\. Did you mean 'zodi'"):
        method_of("zodia")
    with pytest.raises(TrainingError, match="lower the learning rate"):
        fit(training=replace(QUICK, lr=1e9))


class Two(LocalReporter):
    world_size = 2


def test_batches_that_workers_cannot_share():
    with pytest.raises(RecipeError, match="batch_size is 5, which 2 workers cannot share"):
        fit(training=replace(QUICK, batch_size=5), reporter=Two())
    with pytest.raises(RecipeError, match="leaves one pair to each"):
        fit(training=replace(QUICK, batch_size=2), reporter=Two())
