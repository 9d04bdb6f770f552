"""The report of a sweep: what it computes, that the page is whole, escaped, silent and honest, HParams, and
the command."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sweepresults import failed, fill, wave
from test_report_html import Page

from diffadapt.core.errors import StoreError
from diffadapt.core.runs import Root
from diffadapt.core.units import hours_text
from diffadapt.report.frame import Scale
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.report.axis import make_axis, make_labels
from diffadapt.sweeps.report.compare import agreement, axis_heats, benchmark_heat, choice, pareto, spearman
from diffadapt.sweeps.report.curves import Point, curves, diminishing
from diffadapt.sweeps.report.page import render, sweep_text, write_report
from diffadapt.sweeps.report.parallel import parallel
from diffadapt.sweeps.report.view import view
from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform

EVIL = '<script>alert("x")</script>'
SECRET = "hf_" + "a" * 20
THREE = Space(
    {
        "generator.guidance": Choice(1.0, 1.5, 2.5),
        "prompts.prompts_per_class": Choice(5, 25),
        "split.fraction": Choice(0.3, 0.5, 0.7, 0.9),
    }
)
SEEDED = Space({"generator.images_per_class": Choice(25, 50, 100), "seeds": Choice((0,), (1,), (2,))})


class Whole(Page):
    VOID = Page.VOID | {"wbr"}


def ranges(tmp_path, n=40, **more):
    space = Space(
        {
            "uda.lr": Uniform(0.001, 0.03, log=True),
            "uda.epochs": Integers(5, 20, 5),
            "split.fraction": Uniform(0.2, 0.9),
        },
        SearchConfig(searcher="optuna", trials=n, cost="device_hours"),
    )
    rng = np.random.default_rng(0)
    points = [{name: a.at(rng.random()) for name, a in space.axes.items()} for _ in range(n)]
    return fill(
        tmp_path,
        space,
        lambda v, r: (v["split.fraction"] + v["uda.epochs"], None),
        points=points,
        economy=(),
        **more,
    )


def shapes(tmp_path):
    """Sweeps of every shape that a page has to bear, by name."""
    methods = Space(
        {
            "uda.method": Choice("dann", "mcc"),
            "ssl.method": Choice("none", "fixmatch"),
            "seeds": Choice((0,), (1,)),
        }
    )
    oracle = replace(THREE, search=SearchConfig(objective="oracle"))
    stop = {
        "state": "running",
        "planned": 30,
        "change": lambda r: replace(r, status="stopped", epochs=[1.0, 2.0]) if r.number % 3 else r,
    }
    return {
        "grid": fill(tmp_path, THREE, wave, name="grid"),
        "seeds": fill(
            tmp_path,
            SEEDED,
            lambda v, r: (wave({"n": v["generator.images_per_class"]})[0] + 0.01 * v["seeds"][0], None),
            name="seeds",
        ),
        "only-seeds": fill(
            tmp_path,
            Space({"seeds": Choice((0,), (1,))}),
            lambda v, r: (1.0 + v["seeds"][0], 80.0 + v["seeds"][0]),
            name="only-seeds",
        ),
        "one": fill(tmp_path, Space({"a.x": Choice(1)}), wave, name="one"),
        "none": fill(
            tmp_path, Space({"a.x": Choice(1, 2)}), wave, name="none", points=[], state="running", planned=2
        ),
        "failures": fill(
            tmp_path,
            Space({"a.x": Choice(1, 2, 3)}),
            wave,
            name="failures",
            change=lambda r: failed(r, "The weights could not be read."),
        ),
        "ranges": ranges(tmp_path, name="ranges"),
        "benchmarks": fill(
            tmp_path,
            methods,
            wave,
            name="benchmarks",
            recipes=("office31/amazon_webcam", "office31/dslr_webcam"),
        ),
        "oracle": fill(tmp_path, oracle, lambda v, r: (wave(v)[1],) * 2, name="oracle", **stop),
        "equal": fill(
            tmp_path,
            Space({"a.x": Choice(1, 2), "b.y": Choice("p", None)}),
            lambda v, r: (1.0, 50.0),
            name="equal",
        ),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("root"))


# -- the page
# ----------------------------------------------------------------------------------------------------------
def test_every_shape_gives_a_whole_page_that_asks_for_nothing(made):
    for name, sweep in made.items():
        page = render(sweep)
        tags = Whole(page).tags
        assert not {"script", "link", "iframe", "object"} & {t for t, _ in tags}, name
        assert not [
            a
            for _, attributes in tags
            for a in attributes
            if a.startswith("on") or (a in ("src", "href") and attributes[a])
        ], name
        assert not re.search(r"\bnan\b", page), name
        text = sweep_text(sweep, width=100, colour=False)
        assert ("  recommended: " in text) == (name not in ("none", "failures")) and "nan" not in text, name


def test_the_page_says_what_was_searched_saved_and_found(made):
    page = render(made["grid"])
    assert (
        "1500" in page
        and "instead of 6000 by trials one by one" in page
        and ">72<" in page
        and ">18<" in page
    )
    best = view(made["grid"]).best.first
    assert f"diffadapt run {made['grid'].url}/recommended.json --root " in page and best.id in page
    for section in (
        "All settings at a glance",
        "One factor at a time",
        "Two factors together",
        "What quality costs: accuracy (%) against CPU-hours",
        "Did the label-free objective choose well?",
    ):
        assert f">{section}<" in page
    assert "ORACLE" not in page and "Read this first" not in page


@pytest.mark.parametrize("where", ["objective", "selection"])
def test_the_oracle_is_stamped_wherever_labels_chose(made, tmp_path, where):
    sweep = (
        made["oracle"]
        if where == "objective"
        else fill(tmp_path, THREE, wave, change=lambda r: replace(r, selection="oracle"))
    )
    page, text = render(sweep), sweep_text(sweep, width=100, colour=False)
    assert page.index("ORACLE:") < page.index(">Recommended") and "ORACLE:" in text
    assert ("Did the label-free" in page) == (where == "selection")


def test_a_sweep_in_progress_says_so(made):
    page, text = render(made["oracle"]), sweep_text(made["oracle"], width=200, colour=False)
    assert (
        "has not finished (recorded state: running): 24 of 30 trials have ended" in page
        and "Recommended so far" in page
        and "24 of 30" in page
    )
    assert "8 finished, 16 stopped early, 6 open" in text and "has not finished" in text
    assert "0 of 2 trials have ended" in render(made["none"]) and "Nothing can be recommended" in render(
        made["none"]
    )


def test_failures_are_told_once_for_each_reason(made):
    page = render(made["failures"])
    assert (
        page.count("The weights could not be read.") == 1
        and "(3 trials)" in page
        and "tries failed trials again" in page
    )


def test_names_values_and_errors_are_escaped_and_credentials_masked(tmp_path):
    space = Space(
        {"generator.weights": Choice(EVIL, f"s3://key:{SECRET}@bucket/w", sets=("generator.weights",))}
    )
    sweep = fill(
        tmp_path,
        space,
        wave,
        overrides={"data": f"https://user:{SECRET}@host/x"},
        recipes=(EVIL,),
        change=lambda r: r if r.number else failed(r, f"{EVIL} {SECRET}"),
    )
    write_report(sweep)
    page = sweep.read("report.html").decode()
    Whole(page)
    assert (
        EVIL not in page
        and "&lt;script&gt;" in page
        and SECRET not in page
        and SECRET not in sweep_text(sweep, colour=False)
    )
    assert not any(
        SECRET.encode() in p.read_bytes()
        for p in (tmp_path / "sweeps" / "toys" / "tensorboard").rglob("*")
        if p.is_file()
    )


def test_many_trials_stay_readable(tmp_path):
    sweep = ranges(
        tmp_path, 300, change=lambda r: replace(r, adjusted={"uda.batch_size": 8}) if r.number == 7 else r
    )
    page = render(sweep)
    assert "<summary>250 more trials</summary>" in page and "uda.batch_size 8 for want of memory" in page
    assert "The 50 worst settings are left out." in page and len(page) < 900_000
    assert page.count('class="line best-line"') == 2  # the wide chart and the narrow one


def test_a_search_with_two_goals_points_to_the_front(made):
    assert "The search had two goals, im and CPU-hours" in render(
        made["ranges"]
    ) and "two goals" not in render(made["grid"])


def test_deviations_are_over_seeds(made):
    v = view(made["seeds"])
    rows = sweep_text(made["seeds"], width=100, colour=False)
    assert v.best.spread == pytest.approx(0.01) and "± 0.0100" in rows and "over the seeds (n - 1)" in rows
    assert "Bars: one standard deviation over the seeds" in render(made["seeds"])


def test_a_population_is_not_passed_off_as_a_recipe(tmp_path):
    space = Space(
        {"ssl.lr": Uniform(0.001, 0.03)}, SearchConfig(searcher="random", trials=4, scheduler="pbt")
    )
    sweep = fill(tmp_path, space, wave, points=[{"ssl.lr": 0.001 * i} for i in (1, 2, 3, 4)])
    assert "trained from its start with the last values, will differ" in render(
        sweep
    ) and "will differ" in sweep_text(sweep, width=300, colour=False)


def test_a_folder_that_is_no_sweep_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        write_report(Sweep(Root(str(tmp_path)), "nothing"))


# -- one factor at a time
# ----------------------------------------------------------------------------------------------
def test_the_mean_of_a_value_is_over_the_others_and_the_second_line_keeps_them_as_recommended(tmp_path):
    space = Space({"a.x": Choice(1, 2, 4), "b.y": Choice("p", "q")})
    sweep = fill(tmp_path, space, lambda v, r: (v["a.x"] + {"p": 0.0, "q": 10.0}[v["b.y"]], None))
    v = view(sweep)
    [curve] = curves(v, v.axes[0])
    assert [p.mean for p in curve.points] == [6.0, 7.0, 9.0] and [p.mean for p in curve.fixed] == [
        11.0,
        12.0,
        14.0,
    ]
    assert curve.basis == "averaged over all 2 combinations of the other settings"


def test_means_compare_like_with_like_when_trials_failed(tmp_path):
    """x = 4 lost its good partner: with it left in, x = 4 would look worse than x = 1."""
    space = Space({"a.x": Choice(1, 2, 4), "b.y": Choice("p", "q")})
    sweep = fill(
        tmp_path,
        space,
        lambda v, r: (v["a.x"] + {"p": 0.0, "q": 10.0}[v["b.y"]], None),
        change=lambda r: failed(r, "no") if r.values == {"a.x": 4, "b.y": "q"} else r,
    )
    v = view(sweep)
    [curve] = curves(v, v.axes[0])
    assert [p.mean for p in curve.points] == [1.0, 2.0, 4.0] and "the 1 of 2 combinations" in curve.basis


def test_the_deviation_of_a_point_is_of_the_seeds_means(tmp_path):
    space = Space({"a.x": Choice(1, 2), "b.y": Choice(0, 100), "seed": Choice(0, 1, 2)})
    v = view(fill(tmp_path, space, lambda v, r: (v["a.x"] + v["b.y"] + 0.5 * v["seed"], None)))
    assert v.seeds == ("seed",)
    [curve] = curves(v, v.axes[0])
    assert [(p.mean, p.spread, p.seeds, p.trials) for p in curve.points] == [
        (51.5, 0.5, 3, 6),
        (52.5, 0.5, 3, 6),
    ]


def test_accuracy_deviates_over_the_seeds_inside_a_trial_too(tmp_path):
    scores = [["MCC", s, "target/0", "top1", 80.0 + s] for s in (0, 1, 2)] + [
        ["Source", 0, "target/0", "top1", 10.0]
    ]
    v = view(
        fill(
            tmp_path,
            Space({"a.x": Choice(1, 2)}),
            lambda v, r: (1.0 * v["a.x"], 81.0),
            change=lambda r: replace(r, scores=scores),
        )
    )
    objective, accuracy = curves(v, v.axes[0])
    assert objective.points[0].spread is None and accuracy.points[0].spread == pytest.approx(1.0)


def test_ranges_are_binned(tmp_path):
    v = view(ranges(tmp_path, 60))
    axes = {a.label: a for a in v.axes}
    assert (
        not axes["lr"].discrete
        and axes["lr"].log
        and axes["epochs"].discrete
        and not axes["fraction"].discrete
    )
    [curve] = curves(v, axes["fraction"])
    assert (
        [p.trials for p in curve.points] == [10] * 6
        and len(curve.dots) == 60
        and np.all(np.diff([p.x for p in curve.points]) > 0)
    )


COUNTS = make_axis(
    "generator.images_per_class",
    "images per class",
    ("generator.images_per_class",),
    {"kind": "choice", "values": [25, 50, 100, 200]},
    [25, 50, 100, 200],
)


@pytest.mark.parametrize(
    ("means", "spread", "wanted", "said"),
    [
        ([10.0, 18.0, 19.5, 20.0], None, 100, "90% of the gain from 25 to the best, 200"),
        ([10.0, 19.0, 19.5, 20.0], None, 50, "90% of the gain"),
        ([10.0, 13.0, 16.0, 20.0], None, None, "still rises at the largest"),
        ([20.0, 19.0, 18.0, 17.0], None, 25, "No larger"),
        ([10.0, 18.0, 12.0, 20.0], 4.0, 50, "within one standard error (4 seeds)"),
        ([10.0, 18.0, 19.5, 20.0], 0.1, 100, "90% of the gain"),
    ],
)
def test_the_point_of_diminishing_returns(means, spread, wanted, said):
    points = [
        Point(v, COUNTS.number(v), m, spread, 1, 4 if spread else 1)
        for v, m in zip(COUNTS.values, means, strict=True)
    ]
    value, remark = diminishing(COUNTS, points)
    assert value == wanted and said in remark


def test_only_counts_of_images_and_prompts_have_such_a_point(made):
    def axis(name, *seen):
        return make_axis(name, name, (name,), {"kind": "choice", "values": list(seen)}, seen)

    assert (
        axis("prompts.prompts_per_class", 1, 10).counts
        and axis("image_count", 1, 10).counts
        and not axis("generator.guidance", 1, 10).counts
        and not axis("prompts.source", "a", "b").counts
    )
    points = [Point(v, v, v, None, 1, 1) for v in (1, 2, 3)]
    assert diminishing(axis("generator.guidance", 1, 2, 3), points) == (None, "")
    assert "Returns diminish" in render(made["seeds"]) or "still rises" in render(made["seeds"])


# -- settings against each other
# ---------------------------------------------------------------------------------------
def test_the_front_is_what_nothing_beats(tmp_path):
    rng = np.random.default_rng(3)
    table = {i: (float(rng.integers(1, 9)), float(rng.integers(1, 9))) for i in range(40)}
    space = Space({"a.x": Choice(*table)})
    spots = pareto(
        view(
            fill(
                tmp_path,
                space,
                lambda v, r: (table[v["a.x"]][1], None),
                change=lambda r: replace(r, device_hours=table[r.values["a.x"]][0]),
            )
        )
    )
    for s in spots:
        beaten = any(o.x <= s.x and o.y >= s.y and (o.x, o.y) != (s.x, s.y) for o in spots)
        twin = any(o.mark and (o.x, o.y) == (s.x, s.y) for o in spots if o is not s)
        assert bool(s.mark) == (not beaten and not twin), s
    marked = sorted((s for s in spots if s.mark), key=lambda s: s.mark)
    assert [s.mark for s in marked] == list(range(1, len(marked) + 1)) and all(
        a.x < b.x and a.y < b.y for a, b in zip(marked, marked[1:], strict=False)
    )


def test_hours_are_named_after_the_device(tmp_path):
    for device, name in (
        ("cpu", "CPU-hours"),
        ("NVIDIA H200", "GPU-hours"),
        ("NVIDIA H200, NVIDIA L4", "GPU-hours"),
        ("cpu, NVIDIA H200", "device-hours"),
        ("", "device-hours"),
    ):
        sweep = fill(
            tmp_path,
            Space({"a.x": Choice(1, 2)}),
            wave,
            change=lambda r, device=device: replace(r, device=device),
        )
        assert view(sweep).hours == name


def test_the_rank_correlation_is_spearmans():
    a, b = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(a, b) == pytest.approx(-29 / 165)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(
        4.5 / math.sqrt(4.5 * 5)
    )  # mean ranks for ties
    assert spearman([1, 2], [1, 2]) is None and spearman([1, 1, 1], [1, 2, 3]) is None


def test_the_choice_is_measured_against_labels(tmp_path):
    accuracy = {1: 70.0, 2: 80.0, 3: 75.0, 4: 60.0}
    v = view(
        fill(
            tmp_path,
            Space({"a.x": Choice(*accuracy)}),
            lambda v, r: ({1: 1.0, 2: 2.0, 3: 3.0, 4: 0.5}[v["a.x"]], accuracy[v["a.x"]]),
        )
    )
    found = choice(v)
    assert (found["chosen"], found["best"], found["lost"], found["mean"], found["place"], found["of"]) == (
        75.0,
        80.0,
        5.0,
        71.25,
        2,
        4,
    )
    assert agreement(v)[0].correlation == pytest.approx(0.8)
    assert "place 2 of 4 by accuracy" in render(Sweep(Root(str(tmp_path)), "toys"))


def test_heat_maps_hold_the_means(made, tmp_path):
    v = view(
        fill(
            tmp_path,
            Space({"a.x": Choice(1, 2, 3), "b.y": Choice(10, 20), "c.z": Choice(0, 1)}),
            lambda v, r: (v["a.x"] + v["b.y"] + 0.5 * v["c.z"], None),
            change=lambda r: failed(r, "no") if (r.values["a.x"], r.values["b.y"]) == (1, 10) else r,
        )
    )
    (name, [heat]), *_ = axis_heats(v)
    assert name == "x and y" and heat.columns == ["10", "20"] and [n for n, _ in heat.rows] == ["1", "2", "3"]
    assert [[c.text for c in cells] for _, cells in heat.rows] == [
        ["-", "21.250"],
        ["12.250", "22.250"],
        ["13.250", "23.250"],
    ]
    assert heat.rows[2][1][1].best and heat.rows[2][1][1].share == 1.0 and heat.rows[0][1][0].share is None
    [objective, accuracy] = benchmark_heat(view(made["benchmarks"]))
    assert objective.columns == ["amazon_webcam", "dslr_webcam"] and len(objective.rows) == 4
    for column in (0, 1):  # shades within each benchmark
        assert {
            max(c[column].share for _, c in objective.rows),
            min(c[column].share for _, c in objective.rows),
        } == {1.0, 0.0}


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.0083, "0.00830"),
        (0.99999, "1.000"),
        (1.0, "1.00"),
        (20.54, "20.5"),
        (1234.5, "1234"),
    ],
)
def test_hours_have_three_digits(hours, text):
    assert hours_text(hours) == text


# -- axes and scales
# ---------------------------------------------------------------------------------------------------
def test_names_are_short_and_still_differ():
    assert make_labels(["uda.method", "ssl.method", "generator.images_per_class"]) == {
        "uda.method": "uda.method",
        "ssl.method": "ssl.method",
        "generator.images_per_class": "images per class",
    }
    paths = [f"/a/very/long/path/to/the/weights/of/model-{c}/of/an/equally/long/name" for c in "ab"]
    axis = make_axis("weights", "weights", ("weights",), {"kind": "choice", "values": paths}, paths)
    assert axis.text(paths[0]) != axis.text(paths[1])
    alike = ["stable-diffusion-v1-5", "stable-diffusion-2-1"]
    axis = make_axis("weights", "weights", ("weights",), {"kind": "choice", "values": alike}, alike)
    assert [axis.brief(v, 12) for v in alike] == ["…fusion-v1-5", "…ffusion-2-1"]


def test_an_axis_keeps_the_order_of_the_space_and_sorts_numbers():
    kinds = make_axis(
        "k",
        "k",
        ("k",),
        {"kind": "choice", "values": ["none", "mixmatch", "fixmatch"]},
        ["fixmatch", "none", "fixmatch"],
    )
    assert kinds.values == ("none", "fixmatch") and not kinds.numeric and kinds.place("fixmatch") == 1.0
    flags = make_axis("f", "f", ("f",), {"kind": "choice", "values": [True, False]}, [False, True])
    assert flags.values == (True, False) and not flags.numeric
    wide = make_axis("n", "n", ("n",), {"kind": "choice", "values": [100, 1, 10]}, [100, 1, 10])
    assert (
        wide.values == (1, 10, 100)
        and wide.log
        and wide.discrete
        and wide.number(10) == pytest.approx(math.log(10))
    )


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.0, 1.0], False),
        ([5.0, 5.0], False),
        ([-3e-5, 4e-5], False),
        ([90.123, 90.124], False),
        ([1.0, 1000.0], True),
        ([3.0, 4.0], True),
        ([1e-3, 3e-2], True),
    ],
)
def test_scales_hold_their_values_and_have_ticks(values, log):
    scale = Scale(values, 10, 110, log)
    assert all(10 <= scale(v) <= 110 for v in values) and 1 <= len(scale.ticks) <= 12
    assert len({scale.text(t) for t in scale.ticks}) == len(scale.ticks)


def test_lines_meet_the_axes_at_their_values(made):
    v = view(made["grid"])
    lines = parallel(v)
    assert len(lines.shades) == 24 and [c.title for c in lines.columns] == [
        "guidance",
        "prompts per class",
        "fraction",
        "im",
        "accuracy (%)",
    ]
    guidance = lines.columns[0]
    marks = dict((text, place) for place, text in guidance.ticks)
    firsts = [s.first for s in reversed(v.settings)]
    for place, r in zip(guidance.places, firsts, strict=True):
        nearest = min(marks, key=lambda text: abs(marks[text] - place))
        assert float(nearest) == r.values["generator.guidance"]
    assert len({round(p, 6) for p in guidance.places}) == 24  # each line can be followed
    objective = [s.mean for s in reversed(v.settings)]
    assert (
        np.argsort(lines.columns[3].places).tolist() == np.argsort(objective).tolist()
        and lines.shades[-1] == 4
    )
    assert parallel(view(made["one"])) is None and parallel(view(made["none"])) is None


# -- TensorBoard
# -------------------------------------------------------------------------------------------------------
def hparams(folder):
    """What TensorBoard's own backend reads: (experiment, session groups by name)."""
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    backend, request = (
        backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(folder))),
        context.RequestContext(),
    )
    experiment = get_experiment.Handler(
        request, backend, "x", api_pb2.GetExperimentRequest(include_metrics=True, hparams_limit=100)
    ).run()
    statuses = [
        api_pb2.STATUS_UNKNOWN,
        api_pb2.STATUS_SUCCESS,
        api_pb2.STATUS_FAILURE,
        api_pb2.STATUS_RUNNING,
    ]
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=1000,
        allowed_statuses=statuses,
        col_params=[api_pb2.ColParams(metric=m.name) for m in experiment.metric_infos],
    )
    return experiment, {
        g.name: g for g in list_session_groups.Handler(request, backend, "x", asked).run().session_groups
    }


def test_tensorboard_reads_the_trials(tmp_path):
    space = Space(
        {
            "a.x": Choice(1, 2.5),
            "b.kind": Choice("p", None),
            "c.flag": Choice(True, False),
            "seeds": Choice((0,), (1,)),
        }
    )
    sweep = fill(
        tmp_path,
        space,
        wave,
        recipes=("one", "two"),
        change=lambda r: failed(r, "no") if r.number == 3 else replace(r, epochs=[0.25, 0.5]),
    )
    write_report(sweep)
    write_report(sweep)  # a second report replaces the first
    experiment, groups = hparams(tmp_path / "sweeps" / "toys" / "tensorboard")
    infos = {i.name: i for i in experiment.hparam_infos}
    assert set(infos) == {"a.x", "b.kind", "c.flag", "seeds", "benchmark"} and [
        m.display_name for m in experiment.metric_infos
    ] == ["im", "accuracy (%)", "CPU-hours"]
    assert [v.number_value for v in infos["a.x"].domain_discrete.values] == [1.0, 2.5] and len(
        infos["b.kind"].domain_discrete.values
    ) == 2
    results = {r.id: r for r in sweep.results()}
    assert set(groups) == set(results) and len(groups) == 32
    for name, group in groups.items():
        r, values = results[name], {k: v for k, v in group.hparams.items()}
        assert (
            values["a.x"].number_value == r.values["a.x"]
            and values["c.flag"].bool_value == r.values["c.flag"]
            and values["benchmark"].string_value == r.recipe
        )
        metrics = {m.name.tag: m.value for m in group.metric_values}
        wanted = {"objective": r.objective, "accuracy": r.accuracy, "device_hours": r.device_hours}
        assert metrics == pytest.approx({k: v for k, v in wanted.items() if v is not None}, rel=1e-6)
        assert len(group.sessions) == 1 and group.sessions[0].status == (
            2 if r.status == "failed" else 1
        )  # STATUS_FAILURE, STATUS_SUCCESS


def test_a_remote_root_holds_report_and_logs():
    location = "memory://sweep-report-test"
    sweep = fill(location, Space({"a.x": Choice(1, 2)}), wave)
    write_report(sweep)
    assert sweep.has("report.html") and all(
        sweep.has(f"tensorboard/{r.id}/events.out.tfevents.0.hparams") for r in sweep.results()
    )


# -- the command
# -------------------------------------------------------------------------------------------------------
@pytest.fixture
def shell(tmp_path, capsys):
    from reportkit import fake_run

    from diffadapt.cli import main

    fake_run(tmp_path)  # a run called quickstart-0123abcd

    def call(*words):
        status = main([*words, "--root", str(tmp_path)])
        told = capsys.readouterr()
        return SimpleNamespace(status=status, out=told.out, err=told.err)

    return call


def test_report_takes_a_sweep_by_name_or_prefix_and_last_stays_a_run(tmp_path, shell):
    sweep = fill(tmp_path, THREE, wave, name="digits-toy-11112222", state="running", planned=48)
    for name in ("digits-toy-11112222", "digits", f"{tmp_path}/sweeps/digits-toy-11112222/"):
        done = shell("report", name)
        assert (
            done.status == 0
            and "recommended" in done.out
            and "report.html" in done.out
            and "24 open" in done.out
        ), name
    assert all(sweep.has(f) for f in ("report.html", "sweep.parquet", "recommended.json"))
    best = view(sweep).best.first
    assert json.loads(sweep.read("recommended.json"))["overrides"] == dict(best.changes)
    done = shell("report", "last")
    assert done.status == 0 and "quickstart-0123abcd" in done.out and "recommended" not in done.out


def test_report_says_what_it_cannot_tell_apart(tmp_path, shell):
    for name in ("digits-a-1", "digits-a-2", "quick-b-3"):
        fill(tmp_path, Space({"a.x": Choice(1, 2)}), wave, name=name)
    assert shell("report", "digits").status == 2 and "digits-a-1, digits-a-2" in shell("report", "digits").err
    assert "fits several: quick-b-3, quickstart-0123abcd" in shell("report", "quick").err
    assert shell("report", "quickstart-0123abcd").status == 0 and shell("report", "quick-b-3").status == 0
    done = shell("report", "nothing")
    assert done.status == 2 and "There is no run 'nothing'" in done.err and "Traceback" not in done.err


def test_a_damaged_sweep_is_one_sentence(tmp_path, shell):
    sweep = fill(tmp_path, THREE, wave)
    sweep.trial(sweep.results()[0].id).write("result.json", b"{")
    assert shell("report", "toys").status == 0
    sweep.write("sweep.json", b"[")
    done = shell("report", "toys")
    assert done.status == 2 and "sweep.json of toys is damaged" in done.err and "Traceback" not in done.err


def test_a_mistyped_sweep_is_named(tmp_path, shell):
    fill(tmp_path, THREE, wave, name="digits-toy-11112222")
    assert (
        "Or is the sweep meant" in shell("report", "digtis-toy").err
        and "digits-toy" in shell("report", "digtis-toy").err
    )
