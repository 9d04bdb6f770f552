"""A fit that is watched reports a score after every epoch, and is the same fit to the byte."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffadapt.core.errors import DataError, RecipeError, TrainingError
from diffadapt.core.record import softmax
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.metrics import validators
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.sweeps.space import ORACLE, VALIDATORS
from diffadapt.tasks.classification.adaptation import fit_uda
from diffadapt.tasks.classification.fit_ssl import FitSsl
from diffadapt.tasks.classification.fit_uda import FitUda
from diffadapt.tasks.classification.semi_supervised import fit_ssl
from diffadapt.tasks.classification.ssl_batches import PseudoLabels
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.watch import EPOCH, OBJECTIVE, Watcher
from tests.unit import sslkit, udakit
from tests.workers import in_two_workers

(SX, SY), (TX, TY) = udakit.vectors()
SOURCE, TARGET = udakit.views(SX, SY, "s"), udakit.views(TX, TY, "t")
STEPS = 7


def uda(
    watch="",
    method="dann",
    backbone=None,
    reporter=None,
    checkpoints=None,
    labels=None,
    until=None,
    **changes,
):
    """(network, scalars, [(step, scalars) of steps that were watched])."""
    found: list[tuple[int, dict]] = []
    config = replace(UdaConfig(method=method, batch_size=12, epochs=3, steps_per_epoch=STEPS), **changes)
    watcher = Watcher(watch, TARGET, STEPS, "cpu", labels) if watch else None
    reporter = reporter or LocalReporter(
        on_report=lambda step, total, s: found.append((step, s)) if OBJECTIVE in s else None
    )
    torch.manual_seed(0)
    net, scalars = fit_uda(
        SOURCE,
        TARGET,
        backbone or torch.nn.Identity(),
        SX.shape[1],
        udakit.CLASSES,
        config,
        TrainingRun(reporter, checkpoints, until=until, watcher=watcher),
    )
    return net, scalars, found


def plain(scalars):
    return {k: v for k, v in scalars.items() if k not in ("step_seconds", "resumed_from")}


def body():
    """A backbone with everything that looking on could disturb: batch norm and dropout."""
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(SX.shape[1], SX.shape[1]), torch.nn.BatchNorm1d(SX.shape[1]), torch.nn.Dropout(0.3)
    )


@pytest.mark.parametrize("method", ["dann", "mcd"])
def test_a_watched_adaptation_is_the_same_to_the_bit(method):
    before, scalars, nothing = uda(method=method, backbone=body())
    watched, same, found = uda("im", method=method, backbone=body())
    assert udakit.same(before.state_dict(), watched.state_dict()) and plain(scalars) == plain(same)
    assert not nothing and [(step, s[EPOCH]) for step, s in found] == [
        (STEPS, 1.0),
        (2 * STEPS, 2.0),
        (3 * STEPS, 3.0),
    ]
    with torch.no_grad():
        logits = watched.logits(torch.from_numpy(TX)).numpy()
    assert found[-1][1][OBJECTIVE] == pytest.approx(validators.of_logits("im", logits), abs=1e-5)


def ssl(watch="", checkpoints=None, until=None, **changes):
    views = sslkit.clusters()
    head = sslkit.biased_head(views, hidden=8)
    found: list[tuple[int, dict]] = []
    config = sslkit.config("freematch", **{"ema": 0.9, "epochs": 3, "steps_per_epoch": STEPS, **changes})
    watcher = Watcher(watch, views, STEPS, "cpu") if watch else None
    reporter = LocalReporter(
        on_report=lambda step, total, s: found.append((step, s)) if OBJECTIVE in s else None
    )
    torch.manual_seed(0)
    scalars = fit_ssl(
        views,
        PseudoLabels(*sslkit.split(head, views)),
        head,
        sslkit.CLASSES,
        config,
        TrainingRun(reporter, checkpoints, until=until, watcher=watcher),
    )
    return views, head, scalars, found


def test_watched_semi_supervised_learning_is_the_same_to_the_bit():
    _, before, scalars, _ = ssl()
    views, watched, same, found = ssl("mano")
    assert udakit.same(before.state_dict(), watched.state_dict()) and plain(scalars) == plain(same)
    assert [s[EPOCH] for _, s in found] == [1.0, 2.0, 3.0]
    with torch.no_grad():  # the averaged weights are what is scored, as they are the result
        p = softmax(watched(torch.from_numpy(views.cached["test"][:, 0])).numpy())
    assert found[-1][1][OBJECTIVE] == pytest.approx(validators.of_logits("mano", np.log(p)), abs=1e-5)


@pytest.mark.parametrize("kind", ["uda", "ssl"])
def test_a_paused_and_resumed_fit_reports_the_epochs_it_trains_and_ends_alike(kind, tmp_path):
    fit = uda if kind == "uda" else ssl
    whole, early, late = (
        fit("im"),
        fit("im", checkpoints=Checkpoints(tmp_path), until=STEPS),
        fit("im", checkpoints=Checkpoints(tmp_path)),
    )
    index = 0 if kind == "uda" else 1
    assert (
        [s[EPOCH] for _, s in early[-1]] == [1.0]
        and early[-2]["steps"] == STEPS
        and late[-2]["resumed_from"] == STEPS
    )
    assert [s[OBJECTIVE] for _, s in early[-1] + late[-1]] == [s[OBJECTIVE] for _, s in whole[-1]]
    assert udakit.same(whole[index].state_dict(), late[index].state_dict()) and plain(whole[-2]) == plain(
        late[-2]
    )


@pytest.mark.parametrize("name", [*VALIDATORS, ORACLE])
def test_every_objective_can_be_watched(name):
    net, _, found = uda(name, epochs=1, labels=TARGET.labels if name == ORACLE else None)
    value = found[-1][1][OBJECTIVE]
    assert math.isfinite(value)
    if name == ORACLE:
        assert value == pytest.approx(100 * udakit.accuracy(net, TX, TY))


def test_what_cannot_be_watched_is_said():
    with pytest.raises(RecipeError, match="no score 'ensv'.*im.*oracle"):
        Watcher("ensv", TARGET, STEPS, "cpu")
    with pytest.raises(DataError, match="'oracle' needs target labels"):
        Watcher("oracle", TARGET, STEPS, "cpu", np.full(len(TARGET), -1))
    with pytest.raises(TrainingError, match="NaN or infinity after epoch 2"):
        Watcher("im", TARGET, STEPS, "cpu").after(2 * STEPS, lambda x: (torch.full((len(x), 3), math.nan), x))


BACKBONE = BackboneConfig(name="train", arch="cifar_resnet8", frozen=True)
NAMES = ("a", "b", "c")


def stage_uda(watch=""):
    return FitUda(
        UdaConfig(method="dann", batch_size=12, epochs=2, steps_per_epoch=STEPS),
        BACKBONE,
        3,
        NAMES,
        SelectConfig(watch=watch),
    )


def test_the_digest_does_not_know_who_looks_on_and_the_folder_neither(tmp_path):
    stages = [stage_uda(), stage_uda("im")]
    assert stages[0].identity() == stages[1].identity()
    assert FitSsl(select=SelectConfig(watch="im")).identity() == FitSsl().identity()
    files, metrics = [], []
    for number, stage in enumerate(stages):
        job = udakit.job(tmp_path / str(number), udakit.feature_rows(SOURCE), udakit.feature_rows(TARGET))
        metrics.append(json.dumps(stage.fit(job), sort_keys=True))
        folder = tmp_path / str(number) / "out"
        files.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    assert files[0] == files[1] and metrics[0] == metrics[1]


def test_a_paused_stage_goes_on_to_the_same_folder(tmp_path):
    folders, rows = (
        [tmp_path / "whole", tmp_path / "paused"],
        (udakit.feature_rows(SOURCE), udakit.feature_rows(TARGET)),
    )
    for folder in folders:
        job = udakit.job(folder, *rows)
        if folder.name == "paused":
            assert stage_uda("im").fit(replace(job, until=STEPS))["steps"] == STEPS
        assert stage_uda("im").fit(job)["steps"] == 2 * STEPS
    first, second = ({p.name: p.read_bytes() for p in (folder / "out").iterdir()} for folder in folders)
    assert first == second


def test_scalars_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    uda("im", reporter=LocalReporter(log_dir=str(tmp_path)), epochs=2)
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in board.Scalars(OBJECTIVE)] == [STEPS, 2 * STEPS]


def _one_of_two(rank, folder):
    found = []
    for watch in ("", "im"):
        net, _, _ = uda(
            watch,
            backbone=body(),
            reporter=DistributedReporter(on_report=lambda step, total, s: found.append(s.get(OBJECTIVE))),
        )
        torch.save(net.state_dict(), f"{folder}/{watch or 'none'}-{rank}.pt")
    if rank == 0:
        torch.save([v for v in found if v is not None], f"{folder}/found.pt")


@pytest.mark.slow
def test_two_workers_share_the_prediction_and_train_as_if_alone(tmp_path):
    in_two_workers(_one_of_two, tmp_path)
    states = [torch.load(tmp_path / f"{watch}-0.pt") for watch in ("none", "im")]
    assert udakit.same(*states)
    net = AdaptationNetwork(body(), SX.shape[1], udakit.CLASSES, UdaConfig(method="dann").chosen)
    net.load_state_dict(states[1])
    net.eval()
    with torch.no_grad():
        logits = net.logits(torch.from_numpy(TX)).numpy()
    found = torch.load(tmp_path / "found.pt")
    assert len(found) == 3 and found[-1] == pytest.approx(validators.of_logits("im", logits), abs=1e-5)
