"""Which setting a sweep recommends, and the file that ``run`` takes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from sweepresults import result

from diffadapt.sweeps.recommend import by_setting, ranks, recommend, recommendation, settings


def values(*pairs, **more):
    """(x, seed, objective) -> trials numbered in their order."""
    return [result({"x": x, "seeds": (s,)}, o, number=i, **more) for i, (x, s, o) in enumerate(pairs)]


def test_trials_that_differ_by_seed_are_one_setting_with_mean_and_deviation():
    found = settings(values((1, 0, 1.0), (2, 0, 2.0), (1, 1, 3.0), (2, 1, 2.5), (1, 2, 2.0), (2, 2, 2.7)))
    assert [s.first.values["x"] for s in found] == [2, 1]
    assert found[1].mean == pytest.approx(2.0) and found[1].spread == pytest.approx(1.0)  # n - 1
    assert [r.number for r in found[0].trials] == [1, 3, 5]


def test_an_axis_of_its_own_name_over_seeds_is_a_seed_and_one_over_other_fields_is_not():
    sets = {"repeat": ("seed", "generator.seed"), "size": ("a.n", "b.n")}
    found = settings(
        [
            result({"repeat": r, "size": n}, 1.0 + n + 0.1 * r, number=3 * n + r, sets=sets)
            for n in (1, 2)
            for r in (0, 1)
        ]
    )
    assert [len(s.trials) for s in found] == [2, 2] and found[0].first.values["size"] == 2


@pytest.mark.parametrize(
    "other",
    [
        {"status": "stopped", "objective": 99.0},
        {"status": "failed", "objective": None},
        {"objective": math.nan},
        {"objective": math.inf},
    ],
)
def test_what_did_not_come_to_its_end_cannot_win(other):
    good, bad = values((1, 0, 1.0), (2, 0, 5.0))
    assert recommend([good, replace(bad, **other)]) == [good]
    assert recommend([replace(bad, **other)]) == []


def test_one_lucky_seed_does_not_beat_settings_that_were_repeated():
    found = settings(values((1, 0, 1.0), (1, 1, 1.0), (1, 2, 1.0), (1, 3, 1.0), (2, 0, 9.0)))
    assert found[0].first.values["x"] == 1 and not found[1].complete


def test_a_failed_seed_does_not_take_a_setting_out_of_the_race():
    trials = values((1, 0, 1.0), (1, 1, 1.0), (1, 2, 1.0), (2, 0, 2.0), (2, 1, 2.0))
    assert recommend(trials)[0].values["x"] == 2


def test_random_searches_where_every_setting_is_its_own_are_ranked_by_the_objective():
    trials = [result({"lr": 0.1 * i}, 1.0 + i, number=i) for i in range(5)]
    assert [s.first.number for s in settings(trials)] == [4, 3, 2, 1, 0] and all(
        s.complete for s in settings(trials)
    )


def test_a_setting_without_one_of_the_benchmarks_is_not_recommended():
    trials = [
        result({"x": x}, o, number=i, recipe=b)
        for i, (x, b, o) in enumerate([(1, "a", 1.0), (1, "b", 1.0), (2, "a", 9.0)])
    ]
    found = settings(trials)
    assert [s.first.values["x"] for s in found] == [1, 2] and [s.complete for s in found] == [True, False]
    early = settings(
        [trials[0], replace(trials[1], values={"x": 3}, changes={"x": 3})]
    )  # no setting has both yet
    assert all(s.complete for s in early)


def test_without_labels_every_benchmark_counts_alike_whatever_its_scale():
    """Setting 2 is best on two of three benchmarks; the third, whose objective is ten times as wide, would
    decide a mean."""
    table = {"a": {1: 1.0, 2: 1.1, 3: 0.9}, "b": {1: 1.0, 2: 1.2, 3: 0.8}, "c": {1: 12.0, 2: 11.0, 3: 3.0}}
    trials = [
        result({"x": x}, o, number=i, recipe=b)
        for i, (b, x, o) in enumerate((b, x, o) for b, row in table.items() for x, o in row.items())
    ]
    found = settings(trials)
    assert (
        [s.first.values["x"] for s in found] == [2, 1, 3]
        and found[0].rank == pytest.approx(4 / 3)
        and found[0].mean < found[1].mean
    )
    assert "mean rank by im over 3 benchmarks (1.33)" in json.loads(recommendation(trials, {}))["why"]


def test_by_accuracy_the_mean_over_benchmarks_decides():
    table = {"a": {1: 50.0, 2: 52.0}, "b": {1: 50.0, 2: 51.0}, "c": {1: 90.0, 2: 80.0}}
    trials = [
        result({"x": x}, o, number=i, recipe=b, objective_name="oracle")
        for i, (b, x, o) in enumerate((b, x, o) for b, row in table.items() for x, o in row.items())
    ]
    found = settings(trials)
    assert found[0].first.values["x"] == 1 and found[0].rank is None
    assert "oracle" in json.loads(recommendation(trials, {}))["why"]


def test_benchmarks_weigh_alike_when_one_lost_a_seed():
    trials = [
        result({"x": 1, "seeds": (s,)}, o, number=i, recipe=b)
        for i, (b, s, o) in enumerate([("a", 0, 1.0), ("a", 1, 1.0), ("a", 2, 1.0), ("b", 0, 5.0)])
    ]
    assert settings(trials)[0].mean == pytest.approx(3.0) and settings(trials)[0].spread is None


def test_ties_go_to_the_earlier_trial_whatever_was_measured():
    a, b, c = (result({"x": x}, 1.0, number=x, device_hours=h) for x, h in ((0, 2.0), (1, 1.0), (2, None)))
    assert [s.first.number for s in settings([c, b, a])] == [0, 1, 2]
    assert [s.hours for s in settings([c, b, a])] == [2.0, 1.0, None]


def test_equal_values_share_their_rank():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_settings_do_not_depend_on_the_order_of_results_or_on_lists_for_tuples():
    trials = values((1, 0, 1.0), (2, 0, 2.0), (1, 1, 3.0), (2, 1, 2.5))
    lists = [
        replace(r, changes={k: list(v) if isinstance(v, tuple) else v for k, v in r.changes.items()})
        for r in trials
    ]
    assert (
        [[r.number for r in g] for g in by_setting(lists[::-1])]
        == [[r.number for r in g] for g in by_setting(trials)]
        == [[0, 2], [1, 3]]
    )


def test_the_file_is_a_recipe_that_run_takes(tmp_path):
    from diffadapt.core.recipes import load

    axes = {"generator.guidance": (1.0, 1.5), "seeds": ((0,), (1,))}
    trials = [
        result(
            {"generator.guidance": g, "seeds": s},
            g - 0.01 * s[0],
            number=i,
            recipe="adapt_anything/digits",
            adjusted={"ssl.batch_size": 16},
        )
        for i, (g, s) in enumerate((g, s) for g in axes["generator.guidance"] for s in axes["seeds"])
    ]
    file = tmp_path / "recommended.json"
    file.write_bytes(recommendation(trials, {"generator.images_per_class": 25, "controls": ()}))
    recipe = load(str(file))
    assert (
        recipe.generator.guidance,
        recipe.generator.images_per_class,
        recipe.seeds,
        recipe.controls,
        recipe.ssl.batch_size,
    ) == (1.5, 25, (0,), (), 16)
    assert json.loads(file.read_text())["why"] == "best mean im (1.4950) of 2 settings; mean of 2 trials"


def test_the_file_holds_no_credentials_and_is_not_written_for_nothing():
    [trial] = [result({"generator.weights": "s3://key:secret@bucket/w"}, 1.0)]
    assert b"secret" not in recommendation([trial], {"data": "s3://k:secret@b/x"})
    assert (
        recommendation([replace(trial, status="failed", objective=None)], {}) is None
        and recommendation([], {}) is None
    )
