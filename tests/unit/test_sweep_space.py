"""Search spaces: what is refused, which trials they give, and what trials have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.core.schedule import finished
from diffadapt.sweeps.folder import sweep_name
from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform, check
from diffadapt.sweeps.trials import build, draw, enumerate_trials
from diffadapt.sweeps.union import common, economy, merge
from tests.unit.corekit import Double, Numbers, PlainRunner, Shifted, Toy, run_toy

TOY = {"toy": Toy()}
RANDOM = SearchConfig(searcher="random", trials=4)


@pytest.mark.parametrize(
    "space, said",
    [
        (Space({}), "varies nothing"),
        (Space({"numbers.shard": Choice(1)}), "Did you mean 'numbers.shards'"),
        (Space({"numbers.shards": Choice(1, "many")}), "'many'"),
        (Space({"numbers.shards": Choice()}), "has no value"),
        (Space({"numbers.shards": Choice(2, 2)}), "twice"),
        (Space({"execution.actors": Choice(1, 2)}), "not what is made"),
        (Space({"numbers.broken": Choice("a", "b")}), "not what is made"),
        (Space({"numbers.offset": Uniform(0, 1)}), "a grid cannot list"),
        (Space({"numbers.offset": Uniform(2, 1)}, RANDOM), "low must not exceed high"),
        (Space({"numbers.offset": Uniform(0, 1, log=True)}, RANDOM), "starts above 0"),
        (Space({"numbers.shards": Integers(1, 4, 0)}, RANDOM), "a step is at least 1"),
        (Space({"numbers.shards": Uniform(1, 2.5)}, RANDOM), "does not fit the recipe toy"),
        (Space({"numbers.shards": Choice(1)}, SearchConfig(searcher="random")), "give --search.trials"),
        (Space({"numbers.shards": Choice(1)}, SearchConfig(objective="accuraccy")), "no objective"),
        (
            Space({"numbers.shards": Choice(1)}, SearchConfig(cost="device_hours")),
            "need --search.searcher optuna",
        ),
        (Space({"numbers.shards": Choice(1)}, SearchConfig(scheduler="pbt")), "use --search.searcher random"),
        (Space({"numbers.shards": Choice(1, 2)}, SearchConfig(scheduler="asha")), "keeps one of 3"),
        (Space({"numbers.shards": Choice(1)}, SearchConfig(seed=-1)), "search.seed is -1"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(space, said):
    with pytest.raises(RecipeError) as error:
        check(space, TOY)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_grid_is_every_combination_and_sets_all_fields_of_an_axis():
    space = Space(
        {"size": Choice(1, 2, sets=("numbers.shards", "numbers.rows")), "double.factor": Choice(2, 3, 5)},
        base={"numbers.offset": 1.0},
    )
    check(space, TOY)
    trials = enumerate_trials(space, ["toy", "other"])
    assert (
        len(trials) == 12
        and len({t.id for t in trials}) == 12
        and [t.number for t in trials] == list(range(12))
    )
    assert trials[-1].values == {"size": 2, "double.factor": 5} and trials[-1].recipe == "other"
    made = build(Toy(), trials[-1])
    assert (made.numbers.shards, made.numbers.rows, made.double.factor, made.numbers.offset) == (2, 2, 5, 1.0)
    assert [t.id for t in enumerate_trials(space, ["toy"])] == [t.id for t in trials[:6]]


def test_random_draws_are_prefix_stable_and_within_their_ranges():
    space = Space(
        {
            "numbers.offset": Uniform(0.01, 100, log=True),
            "numbers.shards": Integers(1, 9, 2),
            "double.factor": Choice(2, 3),
        },
        replace(RANDOM, trials=60),
    )
    check(space, TOY)
    few, many = (
        enumerate_trials(replace(space, search=replace(RANDOM, trials=n)), ["toy"]) for n in (20, 60)
    )
    assert [t.id for t in many[:20]] == [t.id for t in few]
    assert {t.values["numbers.shards"] for t in many} == {1, 3, 5, 7, 9} and {
        t.values["double.factor"] for t in many
    } == {2, 3}
    offsets = [t.values["numbers.offset"] for t in many]
    assert 0.01 <= min(offsets) < 0.1 and 10 < max(offsets) <= 100 and 15 <= sum(o < 1 for o in offsets) <= 45
    assert draw(space, 3) != draw(replace(space, search=replace(RANDOM, seed=1)), 3)


def test_the_folder_depends_on_what_is_searched_not_on_how_long():
    space = Space({"numbers.offset": Uniform(0, 1)}, RANDOM)
    name = sweep_name("s", space, TOY)
    assert sweep_name("s", replace(space, search=replace(RANDOM, trials=9, concurrent=3)), TOY) == name
    assert sweep_name("s", replace(space, search=replace(RANDOM, objective="entropy")), TOY) != name
    assert sweep_name("s", space, {"toy": Toy(seed=1)}) != name
    assert sweep_name("s", replace(space, base={"seed": 1}), TOY) != name


def plans_of(space: Space, recipe, root: Root):
    return [build(recipe, t).pipeline().plan(root.store) for t in enumerate_trials(space, ["toy"])]


def test_what_trials_share_is_counted_once_and_prefixes_are_shared(tmp_path):
    root = Root(str(tmp_path))
    plans = plans_of(
        Space({"numbers.shards": Choice(2, 5), "double.factor": Choice(2, 3, 4)}), Shifted(), root
    )
    rows = {e.kind: (e.apart, e.together) for e in economy(plans, set())}
    # 2 and 5 shards of numbers thrice each: five in all; doubled by three factors; six sums, and shifts of
    # either length by each
    assert rows == {"numbers": (21, 5), "double": (21, 15), "total": (6, 6), "shift": (21, 21)}
    merged = merge(plans)
    assert {len(p.shards) for n, p in merged.items() if n.startswith("numbers")} == {5}
    shared = common(plans)
    kinds = {}
    for plan in shared.values():
        kinds[plan.stage.kind] = kinds.get(plan.stage.kind, 0) + len(plan.shards)
    assert kinds == {"numbers": 5, "double": 15}, "sums are single trials' own, and shifts depend on them"


def test_fits_that_two_trials_need_are_shared(tmp_path):
    root = Root(str(tmp_path))
    once = plans_of(Space({"double.factor": Choice(2)}), Shifted(numbers=Numbers(shards=2)), root)
    shared = common([*once, *once])
    assert {p.stage.kind: len(p.shards) for p in shared.values()} == {
        "numbers": 2,
        "double": 2,
        "total": 1,
        "shift": 2,
    }


def test_the_merged_plan_makes_what_each_trial_would(tmp_path):
    """Merged, common work leaves the same bytes as the trials one by one."""
    from diffadapt.core.schedule import next_wave

    space = Space({"numbers.offset": Choice(0.0, 1.0), "double.factor": Choice(2, 3)})
    apart, together = Root(str(tmp_path / "apart")), Root(str(tmp_path / "together"))
    for trial in enumerate_trials(space, ["toy"]):
        run_toy(tmp_path / "apart", build(Shifted(), trial))
    merged, runner = merge(plans_of(space, Shifted(), together)), PlainRunner()
    stages = {n: p.stage for n, p in merged.items()}
    while wave := next_wave(merged, finished(merged, together.store)):
        runner.run_chains(wave.chains, stages, together.store, lambda r: None)
        runner.run_fits(wave.fits, stages, together.store, "", lambda r: None, None)
    assert not [r.error for r in runner.receipts if r.status == "failed"]

    def files(root: Root) -> dict[str, bytes]:
        from pathlib import Path

        base = Path(root.store.root)
        return {
            p.relative_to(base).as_posix(): p.read_bytes()
            for p in base.rglob("*")
            if p.is_file() and p.name not in ("family.json", "store.json")
        }

    assert files(together) == files(apart) and Double().kind in {
        name.split("/")[0] for name in files(together)
    }
