"""Rows that predict (nearly) one class are said aloud, and a benchmark's report warns of the validators that
would choose them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffadapt.commands.common import show_result
from diffadapt.core.pipeline import MethodRow, Node, Pipeline
from diffadapt.core.record import predictions_by_key
from diffadapt.core.runs import Root, Run
from diffadapt.core.store import Store
from diffadapt.metrics.collapse import RULE, Tally, collapsed
from diffadapt.metrics.validators import warnings
from diffadapt.report.html import render
from diffadapt.report.own import collapsed as section
from diffadapt.report.own import label_free as choice
from diffadapt.run.finish import finish
from diffadapt.run.label_free import MANY, label_free
from diffadapt.stages.models import logits_rows
from tests.auditkit import drawn_run
from tests.unit.test_streamed_scores import Logits

GROUP = "amazon-webcam"


def tally(row, predicted, true=None, seed=0, group=GROUP):
    return Tally(row, group, seed, False, np.array(predicted), None if true is None else np.array(true))


EVEN = [20, 20, 20, 20]


def test_a_collapsed_row_is_named_and_a_target_of_one_class_is_not():
    found = collapsed([tally("DANN", [0, 80, 0, 0], EVEN), tally("MCC", [19, 21, 20, 20], EVEN)])
    assert [(c["row"], c["label"], c["share"], c["expected"], c["known"]) for c in found] == [
        ("DANN", 1, 100.0, 25.0, True)
    ]
    assert not collapsed([tally("DANN", [0, 80, 0, 0], [0, 79, 1, 0])])
    assert not collapsed([tally("DANN", [5, 70, 5, 0], EVEN)]), "below nine tenths"
    assert not collapsed([tally("DANN", [0, 4, 0, 0], [1, 1, 1, 1])]), "four images say nothing"
    assert not collapsed([tally("DANN", [80], [80])]) and "90 %" in RULE


def test_without_labels_the_other_rows_are_the_yardstick():
    rows = [
        tally("Source only", [30, 20, 15, 15]),
        tally("DANN", [0, 80, 0, 0]),
        tally("SymNets", [0, 78, 2, 0]),
    ]
    found = collapsed(rows)
    assert [(c["row"], c["alike"]) for c in found] == [("DANN", False), ("SymNets", False)]
    alike = collapsed(rows[1:])
    assert [c["alike"] for c in alike] == [True, True]
    said = section.sentences_of({"classes": ["a", "bike", "c", "d"], "cases": alike})
    assert len(said) == 1 and "either the target has one class, or they have collapsed" in said[0], said
    assert section.collapsed_rows({"cases": alike}) == {}
    assert [c["expected"] for c in collapsed(rows[1:2])] == [None]


def test_cases_and_rows_are_counted():
    tallies = [tally("DANN", [0, 80, 0, 0] if s < 4 else EVEN, EVEN, seed=s) for s in range(6)]
    (said,) = section.sentences_of({"classes": ["a", "bike", "c", "d"], "cases": collapsed(tallies)})
    assert said.startswith("DANN has collapsed in 4 of 6 cases: it predicts 'bike' for all 80 images of"), (
        said
    )
    assert "amazon-webcam, seed 0 (by the labels 25.0 % are); " in said and said.endswith("; and 1 more.")
    tallies += [tally(name, [0, 0, 80, 0], EVEN, seed=0) for name in ("CDAN", "MCD", "MCC")]
    (said,) = section.sentences_of({"classes": ["a", "bike", "c", "d"], "cases": collapsed(tallies)})
    assert said == (
        "4 rows predict nearly one class: DANN in 4 of 6 cases, CDAN, MCD and 1 more row; DANN, for one,"
        " answers 'bike' for all 80 images of amazon-webcam, seed 0 (by the labels 25.0 % are)."
    )


def finished(place, labelled=True) -> Run:
    """A run of three rows on 60 images, of which the second has collapsed, and a fourth on images that really
    are of one class."""
    root = Root(str(place))
    root.store.prepare(), root.runs.prepare()
    store: Store = root.store
    names = ("good", "gone", "fair", "one")
    rows = [MethodRow(n, (n,), group="a-b" if n == "one" else GROUP, seed=0) for n in names]
    pipeline = Pipeline(tuple(Node(n, Logits(n, 2, 30)) for n in names), tuple(rows), ("a", "bike", "c"))
    plans = pipeline.plan(store)
    for name in names:
        for i, p in enumerate(plans[name].shards):
            labels = [1 if name == "one" else j % 3 for j in range(30)]
            z = np.random.default_rng([len(name), i]).normal(size=(30, 3)).astype(np.float32)
            z[np.arange(30), labels] += 3
            if name == "gone":
                z[:, 1] = 30
            known = labels if labelled else [None] * 30
            store.commit(p.path or "", logits_rows([f"t/0/{i}{j:03d}" for j in range(30)], known, z, []), {})
    run = Run(root, "benchmark-0123abcd")
    finish(run, "benchmark", 0, {}, pipeline, plans, {})
    run.write_status("finished", {})
    return run


@pytest.mark.parametrize("labelled", [True, False])
def test_a_finished_run_says_it_under_the_table_and_in_the_report(tmp_path, capsys, labelled):
    run = finished(tmp_path, labelled)
    (case,) = [c for c in json.loads(run.read(section.FILE))["cases"] if not c["alike"]]
    assert (case["row"], case["count"], case["images"], case["known"]) == ("gone", 60, 60, labelled)
    capsys.readouterr()
    show_result(run)
    printed, page = capsys.readouterr().out, render(run)
    assert "gone has collapsed: it predicts 'bike' for all 60 images of amazon-webcam, seed 0" in printed
    assert "gone has collapsed" in page and section.Collapsed.title in page and "at least 90 % of its" in page
    assert ("one" in [c["row"] for c in json.loads(run.read(section.FILE))["cases"]]) is not labelled


def test_a_finished_run_without_a_collapsed_row_says_nothing(tmp_path):
    run = finished(tmp_path)
    run.write(section.FILE, b"{}")
    assert section.collapsed_sentences(run) == [] and section.Collapsed.title not in render(run)


def benchmark(place, images=80, candidates=3) -> tuple[Run, dict]:
    """A benchmark's run whose row MCC predicts 'bike' for every image, and is sure of it."""
    run, truth = drawn_run(place, images=images, groups=(GROUP,))
    manifest = run.manifest()
    del manifest["outputs"]["target"]
    manifest["rows"] = manifest["rows"][:candidates]
    run.write("manifest.json", json.dumps(manifest).encode())
    nodes = manifest["nodes"]

    def load(node):
        found = predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[node]["shards"]])
        if node == "row1.s0":
            rng = np.random.default_rng(1)
            found = {k: (label, rng.normal(0, 0.1, 4) + [0, 20, 0, 0]) for k, (label, _) in found.items()}
        return found

    counts = np.bincount(truth, minlength=4)
    gone = collapsed([tally("MCC", [0, images, 0, 0], counts)])
    run.write(section.FILE, json.dumps({"classes": manifest["class_names"], "cases": gone}).encode())
    data = label_free(manifest, load, [])
    assert data is not None
    run.write(choice.FILE, json.dumps(data).encode())
    return run, data


def test_a_benchmarks_report_warns_of_validators_that_choose_the_collapsed_row(tmp_path):
    run, data = benchmark(tmp_path)
    (case,) = data["cases"]
    assert case["rows"] == ["Source only", "MCC", "MCC + FixMatch"] and set(case["scores"]) == {
        "entropy", "im", "bnm", "corrc", "snd", "mano", "classami", "ensv"
    }  # fmt: skip
    chosen = dict(zip(choice.names(data), choice.choices(case, choice.names(data)), strict=True))
    assert {chosen[n] for n in ("entropy", "snd", "mano")} == {"MCC"} and chosen["im"] == "MCC + FixMatch", (
        chosen
    )
    page = render(run)
    assert choice.LabelFree.title in page and "MCC (collapsed)" in page
    assert "SND, Entropy (minus), MaNo and ClassAMI may prefer a collapsed candidate" in page
    assert "EnsV of two candidates" not in page


def test_two_candidates_are_too_few_for_ensv(tmp_path):
    run, data = benchmark(tmp_path, candidates=2)
    page = render(run)
    assert "EnsV of two candidates says little" in page
    assert warnings(["im"], 2, True) == [] and warnings(["ensv", "im"], 3, True) == []
    assert len(warnings(["ensv", "snd"], 2, True)) == 2 and warnings(["snd"], 3, False) == []
    one = label_free({**run.manifest(), "rows": run.manifest()["rows"][:1]}, lambda n: {}, [])
    assert one is None and data["some"] == 0 < MANY


def test_regret_is_in_points_of_the_runs_metric():
    case = {
        "group": GROUP,
        "seed": 0,
        "rows": ["a", "b"],
        "scores": {"snd": [2, 1], "im": [1, 2]},
        "true": [50, 90],
    }
    data = {"cases": [case, {**case, "seed": 1, "true": [None, 90]}], "collapsed": {}}
    assert choice.choices(case, ["snd", "im", "mano"]) == ["a (-40.0)", "b (best)", "-"]
    assert choice.regrets(data) == ["40.0", "0.0"]


def test_the_list_of_adapt_anything_is_warned_of_too(tmp_path):
    from diffadapt.systems.adapt_anything.report import unlabelled_text, validators

    run, _ = drawn_run(tmp_path, images=40, labelled=False)
    assert validators(run, run.manifest())["warnings"] == []
    gone = [{"row": "MCC", "group": "target/0", "seed": 0, "alike": False}]
    run.write(section.FILE, json.dumps({"cases": gone}).encode())
    assert any(
        "Entropy (minus) may prefer a collapsed" in w for w in validators(run, run.manifest())["warnings"]
    )
    assert "may prefer a collapsed" in " ".join(unlabelled_text(run, run.manifest()).split())
