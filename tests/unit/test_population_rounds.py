"""Members of a population, round by round and without Ray."""

import json
from dataclasses import replace

import pytest

from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.runs import Run
from diffadapt.run.local import LocalRunner
from diffadapt.run.population import Member, advance, check_population, clear, last_fit, outcome
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.trial import run_trial
from diffadapt.sweeps.space import Choice, SearchConfig, Space, Uniform
from diffadapt.sweeps.trials import make_trial
from diffadapt.train.checkpoints import Checkpoints
from tests import populationkit as kit
from tests.ray.toy import lines

EPOCHS = 4


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A root whose store holds what stands before the training."""
    root = tmp_path_factory.mktemp("shared")
    kit.make_shared(kit.search(root, kit.Clusters(), kit.space()))
    return root


@pytest.fixture
def place(shared, tmp_path):
    """make(values, ...) -> (member, its sweep), each test with sweeps of its own on one store."""

    def make(values, interval=1, objective="im", varied=None, **recipe):
        varied = varied or kit.space(objective=objective)
        search = kit.search(shared, kit.Clusters(side_log=str(tmp_path / "log"), **recipe), varied)
        sweep = replace(search, sweep=type(search.sweep)(search.root, f"sweep-{tmp_path.name}"))
        trial = make_trial(varied, "clusters", values, 0)
        return Member(sweep.work(trial), varied, "adapted", EPOCHS, interval), sweep

    return make


def rounds(member, values, state=None, count=EPOCHS):
    for _ in range(count):
        state = advance(member, state, values)
    return state


@pytest.mark.parametrize("interval", [1, 3])
def test_rounds_without_an_exchange_are_one_training(place, interval):
    values = {"ssl.lr": 0.05}
    member, search = place(values, interval)
    state = rounds(member, values, count=2 if interval == 3 else 4)
    folder = search.sweep.trial(member.work.trial)
    result = outcome(member, state)
    policy = json.loads(folder.read("policy.json"))
    assert [row[0] for row in policy] == ([3, 4] if interval == 3 else [1, 2, 3, 4]) and {
        row[2] for row in policy[1:]
    } == {member.work.trial.id}
    model, scores = folder.read("model/head.safetensors"), folder.read("scores.parquet")
    alone = run_trial(member.work, lambda e: LocalRunner(ExecutionConfig(device="cpu", threads=1)))
    (trained,) = search.root.store.list("ssl")
    assert model == search.root.store.read_bytes(f"ssl/{trained}/head.safetensors") and scores
    assert (result.status, result.objective, result.accuracy, result.values) == (
        "finished",
        alone.objective,
        alone.accuracy,
        values,
    )
    assert (
        len(result.epochs) == EPOCHS
        and result.epochs[-1] == pytest.approx(result.objective, abs=1e-6)
        and result.device_hours > 0
    )


def test_a_round_is_not_trained_twice_and_old_checkpoints_go(place, tmp_path):
    member, search = place({"ssl.lr": 0.05})
    first = rounds(member, {"ssl.lr": 0.05}, count=3)
    trained = len(lines(tmp_path / "log"))
    assert rounds(member, {"ssl.lr": 0.05}, count=3) == first and len(lines(tmp_path / "log")) == trained == 6
    folder = search.sweep.trial(member.work.trial)
    kept = [
        n[:5]
        for n in sorted(folder.place.list(f"{folder.name}/population"))
        if folder.has(f"population/{n}/checkpoints")
    ]
    assert kept == ["00002", "00003"]
    clear(search.sweep, member.work.trial.id)
    assert not folder.has("population") and folder.has("policy.json")


def test_a_member_goes_on_from_anothers_weights_with_its_own_settings(place):
    varied = Space(
        {"ssl.fixmatch.weight_decay": Uniform(1e-5, 1e-1, log=True)}, SearchConfig("random", 2, "pbt")
    )
    (a, search), (b, _) = (place({"ssl.fixmatch.weight_decay": v}, varied=varied) for v in (1e-3, 2e-2))
    donor = advance(a, None, {"ssl.fixmatch.weight_decay": 1e-3})
    advance(b, None, {"ssl.fixmatch.weight_decay": 2e-2})
    taken = advance(b, donor, {"ssl.fixmatch.weight_decay": 5e-3})
    states = [Checkpoints(f"{search.sweep.url}/{s.folder}/checkpoints").latest() for s in (donor, taken)]
    assert [s["step"] for s in states] == [10, 20] and states[1]["ema"]["updates"] == 20
    assert {g["weight_decay"] for g in states[1]["optimizer"]["param_groups"]} == {5e-3}
    assert taken.scores[:1] == donor.scores and taken.seconds > donor.seconds
    policy = json.loads(search.sweep.trial(b.work.trial).read("policy.json"))
    assert policy == [
        [1, {"ssl.fixmatch.weight_decay": 2e-2}, None],
        [2, {"ssl.fixmatch.weight_decay": 5e-3}, a.work.trial.id],
    ]


@pytest.mark.parametrize(
    "torn", [pytest.param("state.json", marks=pytest.mark.slow), "scores.parquet", "checkpoint"]
)
def test_a_round_that_was_killed_goes_on_to_the_same_end(place, monkeypatch, torn):
    values = {"ssl.lr": 0.01}
    member, search = place(values)
    undisturbed = rounds(member, values)
    expected = search.sweep.trial(member.work.trial).read("model/head.safetensors")
    clear(search.sweep, member.work.trial.id)

    def dies(self, name, data):
        if name.endswith(torn):
            raise KeyboardInterrupt
        return write(self, name, data)

    def dies_late(self, step, state):
        path = save(self, step, state)
        if step == 34:
            raise KeyboardInterrupt
        return path

    write, save = Run.write, Checkpoints.save
    start = rounds(member, values, count=3)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if torn == "checkpoint":  # in the middle of the round
            patched.setattr(Checkpoints, "save", dies_late)
            member = replace(
                member,
                work=replace(
                    member.work,
                    recipe=replace(
                        member.work.recipe, ssl=replace(member.work.recipe.ssl, checkpoint_every=34)
                    ),
                ),
            )
        else:
            patched.setattr(Run, "write", dies)
        advance(member, start, values)
    again = advance(member, start, values)
    assert (
        again.scores == undisturbed.scores
        and search.sweep.trial(member.work.trial).read("model/head.safetensors") == expected
    )


def test_a_diverged_member_is_judged_last_and_may_take_over(place):
    (bad, search), (good, _) = place({"ssl.lr": 1e9}), place({"ssl.lr": 0.05})
    broken, sound = advance(bad, None, {"ssl.lr": 1e9}), advance(good, None, {"ssl.lr": 0.05})
    assert broken.score is None and "became" in broken.error and broken.epoch == 1 and sound.score > 0
    assert advance(bad, sound, {"ssl.lr": 0.04}).score is not None
    for _ in range(3):  # alone it is tried again, and fails in a sentence
        broken = advance(bad, broken, {"ssl.lr": 1e9})
    result = outcome(bad, broken)
    assert (result.status, result.id, result.objective) == (
        "failed",
        bad.work.trial.id,
        None,
    ) and "lower the learning rate" in result.error
    assert search.sweep.results()[0].error == result.error


def test_exchanges_by_target_labels_are_stamped(place):
    values = {"ssl.lr": 0.05}
    member, search = place(values, interval=4, objective="oracle")
    result = outcome(member, rounds(member, values, count=1))
    assert result.selection == "oracle" and result.objective == result.accuracy == pytest.approx(
        result.epochs[-1]
    )
    assert {s.selection for s in search.sweep.trial(member.work.trial).scores()} == {"oracle"}


def test_a_checkpoint_that_is_gone_is_said(place):
    member, search = place({"ssl.lr": 0.05})
    state = advance(member, None, {"ssl.lr": 0.05})
    clear(search.sweep, member.work.trial.id)
    with pytest.raises(StoreError, match="checkpoint .* is gone"):
        advance(member, state, {"ssl.lr": 0.05})


def axis(name, *values, **search):
    return Space({name: Choice(*(values or (0.1, 0.2)))}, SearchConfig("random", 8, "pbt", **search))


@pytest.mark.parametrize(
    "name",
    [
        "ssl.method",
        "ssl.batch_size",
        "ssl.epochs",
        "ssl.seed",
        "ssl.fixmatch.mu",
        "ssl.flexmatch.threshold",
        "ssl.fixmatch.nesterov",
        "select.candidates",
    ],
)
def test_what_cannot_change_in_the_middle_is_refused(name):
    with pytest.raises(RecipeError, match=f"{name}' does not allow: vary real numbers of it, such as ssl.lr"):
        check_population(axis(name), {"clusters": kit.Clusters()})


def test_recipes_and_populations_that_do_not_fit(tmp_path):
    from diffadapt.models.config import SelectConfig
    from tests.unit.corekit import Toy

    good, recipe = axis("ssl.lr"), kit.Clusters()
    check_population(good, {"clusters": recipe})
    assert last_fit("clusters", recipe.pipeline()) == "adapted"
    with pytest.raises(RecipeError, match="at least two members"):
        check_population(axis("ssl.lr", 0.1), {"clusters": recipe})
    with pytest.raises(RecipeError, match="works on stage 1 or 2"):
        check_population(axis("seed"), {"toy": Toy()})
    with pytest.raises(RecipeError, match="chooses one by 'ensv'"):
        check_population(good, {"clusters": replace(recipe, select=SelectConfig("ensv"))})
    with pytest.raises(RecipeError, match="one process"):
        check_population(good, {"clusters": replace(recipe, execution=ExecutionConfig(train_workers=2))})
    with pytest.raises(RecipeError, match="switch 'ssl.fixmatch.ema' off"):
        check_population(axis("ssl.fixmatch.ema", 0.0, 0.9), {"clusters": recipe})
    check_population(axis("ssl.fixmatch.ema", 0.8, 0.9), {"clusters": recipe})
