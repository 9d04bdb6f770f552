"""Choosing among epochs: every rule, kills at any write, torn files, workers, and what no rule may look
at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffadapt.core.errors import DataError, RecipeError, StoreError, TrainingError
from diffadapt.train.candidates import NEEDS, Chooser, TargetJudge, candidate_steps, partners
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.views import FeatureViews
from tests.workers import in_two_workers

STEPS = [5, 10, 15, 20]
NOISE = {5: 0.9, 10: 0.0, 15: 0.4, 20: 0.7}
"""Step -> noise in the weights: the model of step 10 is the best."""
TRUTH = np.arange(60) % 3


def views(n=60, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = (4 * np.eye(3, 5)[labels] + rng.normal(size=(n, 5)) + shift).astype(np.float32)
    empty = np.zeros((n, 0, 5), np.float32)
    return FeatureViews(labels, [str(i) for i in range(n)], x, empty, empty)


def weights(step):
    noise = np.random.default_rng(step).normal(size=(5, 3)) * NOISE[step]
    w = np.eye(5, 3) + noise
    return torch.tensor(w / np.linalg.norm(w), dtype=torch.float32)


class Training:
    """Stands in for the engine: offers one model a step, counts what it is asked."""

    def __init__(self):
        self.forwards, self.asked = 0, []

    def run(self, chooser, steps=STEPS, bad=()):
        for step in steps:
            w = weights(step) * (float("nan") if step in bad else 1.0)

            def forward(x, w=w):
                self.forwards += 1
                return x @ w, x * w.sum()

            def state(step=step, w=w):
                self.asked.append(step)
                return {"w": w, "step": torch.tensor(step)}

            chooser.offer(step, forward, state)
        return chooser.choose()


def chooser(rule, folder, **given):
    options = {"source": views(40, 1, -0.2), "true_labels": TRUTH, "batch_size": 16, **given}
    return Chooser(str(folder), STEPS, TargetJudge(rule, views(), options.pop("source"), 3, "cpu", **options))


def kept(folder, what):
    return sorted(int(p.parent.name[:9]) for p in Path(folder).glob(f"candidates/*-{what}/*.pt"))


def test_candidates_are_spread_over_the_epochs_with_the_last_among_them():
    assert candidate_steps(20, 10, 4) == [50, 100, 150, 200]
    assert candidate_steps(3, 10, 10) == [10, 20, 30]
    assert candidate_steps(7, 1, 3) == [3, 5, 7]
    assert candidate_steps(5, 2, 1) == [10]


def test_last_chooses_nothing_and_writes_nothing(tmp_path):
    c = chooser("last", tmp_path)
    assert c.steps == []
    state, info = Training().run(c)
    assert state is None and info == {"rule": "last", "chosen_step": None, "scores": {}}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", sorted(NEEDS))
def test_every_rule_returns_the_weights_of_its_best_score(rule, tmp_path):
    training = Training()
    state, info = training.run(chooser(rule, tmp_path))
    assert info["rule"] == rule and list(info["scores"]) == [str(s) for s in STEPS]
    assert info == json.loads(json.dumps(info))
    best = info["chosen_step"]
    assert info["scores"][str(best)] == max(info["scores"].values())
    assert int(state["step"]) == best and torch.equal(state["w"], weights(best))
    assert kept(tmp_path, "evidence") == STEPS
    assert kept(tmp_path, "weights") == (STEPS if rule == "ensv" else [best])
    if rule != "snd":  # density of the predictions, which noise in the weights can raise
        assert best == 10
    assert ("synthetic" in info.get("note", "")) == (rule == "dev")
    assert ("upper bound" in info.get("note", "")) == (rule == "oracle")


@pytest.mark.parametrize("rule", ["im", "ensv"])
def test_a_kill_at_any_write_changes_nothing(rule, tmp_path, monkeypatch):
    undisturbed, info = Training().run(chooser(rule, tmp_path / "whole"))
    save = Checkpoints.save
    for fatal in range(1, 9):
        folder, count = tmp_path / str(fatal), 0

        def dying(self, step, state, fatal=fatal):
            nonlocal count
            count += 1
            if count == fatal:
                raise KeyboardInterrupt
            return save(self, step, state)

        monkeypatch.setattr(Checkpoints, "save", dying)
        killed = Training()
        try:
            killed.run(chooser(rule, folder))
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(Checkpoints, "save", save)
        known = kept(folder, "evidence")
        again = Training()
        state, found = again.run(chooser(rule, folder))
        assert found == info and torch.equal(state["w"], undisturbed["w"])
        assert not set(again.asked) & set(known), "a finished candidate was made again"
        assert again.forwards == 4 * (len(STEPS) - len(known))


def test_torn_files_are_made_again(tmp_path):
    _, info = Training().run(chooser("ensv", tmp_path))
    for name in ("000000005-evidence", "000000010-weights"):
        (path,) = (tmp_path / "candidates" / name).glob("*.pt")
        path.write_bytes(path.read_bytes()[:-7])
    again = Training()
    state, found = again.run(chooser("ensv", tmp_path))
    assert again.asked == [5, 10] and found == info and torch.equal(state["w"], weights(info["chosen_step"]))


def test_evidence_of_another_rule_or_target_does_not_count(tmp_path):
    Training().run(chooser("im", tmp_path))
    training = Training()
    assert training.run(chooser("mixval", tmp_path))[1]["rule"] == "mixval" and training.forwards == 4 * 8


def test_missing_weights_and_missing_candidates_are_said(tmp_path):
    _, info = Training().run(chooser("im", tmp_path), STEPS[:3])
    assert "[20]" in info["note"]
    for path in tmp_path.glob("candidates/*-weights/*.pt"):
        path.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        chooser("im", tmp_path).choose()
    with pytest.raises(StoreError, match="No candidate"):
        chooser("im", tmp_path / "empty").choose()


@pytest.mark.parametrize("rule", ["im", "ensv", "oracle"])
def test_a_model_with_nan_never_wins(rule, tmp_path):
    state, info = Training().run(chooser(rule, tmp_path / "a"), bad=(10, 20))
    assert (
        info["scores"]["10"] is None and info["chosen_step"] in (5, 15) and torch.isfinite(state["w"]).all()
    )
    with pytest.raises(TrainingError, match="NaN"):
        Training().run(chooser(rule, tmp_path / "b"), bad=STEPS)


def test_ties_go_to_the_later_step(tmp_path, monkeypatch):
    monkeypatch.setitem(NOISE, 15, 0.0)
    monkeypatch.setitem(NOISE, 20, 0.0)
    assert Training().run(chooser("oracle", tmp_path))[1]["chosen_step"] == 20


@pytest.mark.parametrize("rule", sorted(set(NEEDS) - {"oracle"}))
def test_target_labels_change_no_other_choice(rule, tmp_path):
    _, info = Training().run(chooser(rule, tmp_path / "a"))
    target = views()
    target.labels = (target.labels + 1) % 3
    other = Chooser(
        str(tmp_path / "b"),
        STEPS,
        TargetJudge(rule, target, views(40, 1, -0.2), 3, "cpu", true_labels=target.labels, batch_size=16),
    )
    assert Training().run(other)[1] == info


def test_oracle_counts_known_labels_alone(tmp_path):
    labels = np.where(np.arange(60) < 30, TRUTH, -1)
    _, info = Training().run(chooser("oracle", tmp_path / "a", true_labels=labels))
    x = views().cached["test"][:30, 0]
    wanted = {str(s): float(((x @ weights(s).numpy()).argmax(1) == TRUTH[:30]).mean()) for s in STEPS}
    assert info["scores"] == pytest.approx(wanted)
    uneven = np.where(np.arange(60) % 3 == 0, 0, -1)
    uneven[1] = 1
    _, info = Training().run(chooser("oracle", tmp_path / "b", true_labels=uneven, metric="class_mean"))
    wrong = {s: (views().cached["test"][:, 0] @ weights(s).numpy()).argmax(1) for s in STEPS}
    wanted = {str(s): ((wrong[s][::3] == 0).mean() + (wrong[s][1] == 1)) / 2 for s in STEPS}
    assert info["scores"] == pytest.approx(wanted)


def test_what_a_rule_lacks_is_said(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'ensv'"):
        chooser("ensy", tmp_path)
    with pytest.raises(RecipeError, match="labelled source"):
        chooser("dev", tmp_path, source=None)
    with pytest.raises(RecipeError, match="target has none"):
        chooser("oracle", tmp_path, true_labels=None)
    with pytest.raises(DataError, match="no target image"):
        chooser("oracle", tmp_path, true_labels=np.full(60, -1))


def test_partners_are_one_circle_from_the_seed():
    partner = partners(50, 3)
    assert (partner == partners(50, 3)).all() and (partner != partners(50, 4)).any()
    at, seen = 0, set()
    while at not in seen:
        seen.add(at)
        at = int(partner[at])
    assert len(seen) == 50


def _worker(rank, folder):
    for rule in ("ensv", "mixval"):
        training = Training()
        state, info = training.run(chooser(rule, f"{folder}/{rule}"))
        assert bool(training.asked) == (rank == 0)
        (Path(folder) / f"{rule}-{rank}.json").write_text(
            json.dumps({"info": info, "w": state["w"].tolist(), "forwards": training.forwards})
        )


def test_two_workers_choose_what_one_does(tmp_path):
    in_two_workers(_worker, tmp_path)
    for rule in ("ensv", "mixval"):
        state, info = Training().run(chooser(rule, tmp_path / "one" / rule))
        found = [json.loads((tmp_path / f"{rule}-{rank}.json").read_text()) for rank in (0, 1)]
        assert all(f["info"] == info and f["w"] == state["w"].tolist() for f in found)
        whole = 4 * 4 * (2 if rule == "mixval" else 1)
        assert [f["forwards"] for f in found] == [whole // 2, whole // 2]
