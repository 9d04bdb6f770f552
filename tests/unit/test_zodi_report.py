"""Reports of ZoDi: honest sentences, the estimate beside the measured, every class in one table, decisions,
published figures. Numbers are invented."""

from __future__ import annotations

import re

import pytest
from reportkit import fake_manifest, fake_run

from diffadapt.core.record import Score
from diffadapt.report.findings import findings
from diffadapt.report.html import render
from diffadapt.report.roles import system
from diffadapt.report.summary import metrics, summarise
from diffadapt.report.table import score_table
from diffadapt.systems.zodi.findings import methods, ours
from diffadapt.systems.zodi.published import read

EVIL = "<script>alert(1)</script>"
MEANS = {"Source only": 20.0, "Transferred only": 24.0, "Source + transferred": 27.0, "ZoDi": 28.0}
NAMES = {
    "Source only": "source_only",
    "Transferred only": "transferred_only",
    "Source + transferred": "both",
    "ZoDi": "zodi",
    "ZoDi, plain img2img": "zodi",
}
CLASSES = ("road", "car", EVIL)


def node(kind: str, inputs=(), identity=None, items: int = 50) -> dict:
    return {
        "kind": kind,
        "version": 1,
        "identity": identity or {},
        "revisions": {},
        "inputs": list(inputs),
        "family": "0123456789abcdef",
        "shards": [["all", "feed", items, f"{kind}/x"]],
        "quarantined": [],
    }


def manifest(
    means=MEANS, controls=("ZoDi, plain img2img",), target="acdc", condition="night", **more
) -> dict:
    transfer = {
        "config": {
            "prompt": "driving at night",
            "suffix": ", best quality",
            "strength": 0.9,
            "steps": 20,
            "guidance": 9,
            "method": "stochastic",
            "palette": "cityscapes",
        }
    }
    nodes = {
        "source": node("scenes"),
        "target": node("scenes"),
        "transferred": node("transferred", ["source"], transfer),
        "quality": node("quality", ["transferred"], {"thresholds": {"edges": [0.4], "luminance": [5, 90]}}),
    }
    rows = []
    for i, name in enumerate([*means, *controls]):
        nodes[f"m{i}"] = node("segmenter", ["source", "transferred", "quality"], {"method": NAMES[name]})
        nodes[f"m{i}_on_target"] = node("segments", ["target", f"m{i}"])
        rows.append(
            {
                "name": name,
                "members": [f"m{i}_on_target"],
                "control": name in controls,
                "selection": "last",
                "seed": 0,
                "group": "",
                "metric": "miou",
            }
        )
    config = {
        "seed": 0,
        "scale": 1.0,
        "source": {"layout": "cityscapes", "path": "cityscapes"},
        "target": {"layout": target, "path": "target" if target else "", "condition": condition},
        "transfer": {
            "weights": "/data/private/stable-diffusion",
            "controlnet": "lllyasviel/control_v11p_sd15_seg",
            "domain": "night",
            "method": "stochastic",
            "profile": "",
        },
        "segmenter": {"arch": "deeplabv3plus", "backbone": "resnet50"},
        "training": {"select": "last"},
    }
    images = [
        {
            "key": f"source/0/a{i}",
            "kept": i > 2,
            "reason": "" if i > 2 else "edges",
            "reasons": [],
            "attempts": 1 + (i < 4),
            "strength": 0.9,
            "scores": {"edges": i / 10, "luminance": 30.0 + i, "change": 60.0},
        }
        | ({} if i > 2 else {"sentence": f"refused: edges {EVIL}"})
        for i in range(10)
    ]
    counts = {
        "images": 11,
        "kept": 7,
        "refused": 3,
        "failed": 1,
        "attempts": 14,
        "retried": 4,
        "reasons": {"edges": 3},
    }
    made = {
        **fake_manifest("zodi/cityscapes_acdc", classes=CLASSES, config=config),
        "nodes": nodes,
        "rows": rows,
        "outputs": {"target": "target", "quality": "quality", "model": "m3"},
    }
    return {
        **made,
        "decisions": {"counts": counts, "images": images, "failed": [["source/0/a10", "NaN"]]},
        **more,
    }


def scores(
    means=MEANS, controls=None, seeds=(0,), wobble=0.5, estimate=3.0, target=True, classes=CLASSES
) -> list[Score]:
    controls = {"ZoDi, plain img2img": 25.0} if controls is None else controls
    first, further = [], []
    for name, mean in {**means, **controls}.items():
        for s in seeds:
            shift = wobble * (s - 1) * (len(seeds) > 1)

            def one(metric, value, group="night/0", images=106, name=name, s=s):
                return Score(
                    "r",
                    name,
                    name in controls,
                    group,
                    group.split("/")[0],
                    0,
                    metric,
                    value,
                    images,
                    images,
                    s,
                )

            first += [one("miou", mean + shift)] if target else []
            first += [one("miou_source", 70.0 - mean / 10, "source/0", 500)] + (
                [one("miou_estimated", mean + shift + estimate, "source/0", 90)]
                if estimate is not None
                else []
            )
            further += (
                [
                    one("pixel_accuracy", 60 + mean / 2),
                    *(one(f"iou.{c}", mean + 10 * i) for i, c in enumerate(classes)),
                ]
                if target
                else []
            )
    order = {"miou": 0, "miou_source": 1, "miou_estimated": 2}
    return sorted(first, key=lambda x: order[x.metric]) + further


def page(tmp_path, rows=None, made=None) -> str:
    return render(fake_run(tmp_path, "zodi-1", scores() if rows is None else rows, made or manifest()))


def text_of(rows, made=None) -> str:
    return "\n".join(findings(rows, None, made or manifest()))


def test_methods_are_read_off_the_graph():
    made = manifest()
    assert system(made) == "zodi" and system(fake_manifest()) != "zodi"
    assert methods(made) == {
        "source_only": "Source only",
        "transferred_only": "Transferred only",
        "both": "Source + transferred",
        "zodi": "ZoDi",
    }
    assert ours(methods(made)) == "ZoDi" and ours({"source_only": "a", "both": "b"}) == "b" and ours({}) == ""


def test_each_step_has_its_sentence():
    said = text_of(scores())
    assert "ZoDi is 8.0 points above Source only (28.0 against 20.0 %)" in said
    assert (
        "ZoDi is 1.0 points above Source + transferred" in said
        and "Source + transferred is 3.0 points above Transferred only" in said
    )
    assert (
        "above the control ZoDi, plain img2img" in said
        and "Of the +8.0 points over Source only, the control has +5.0." in said
    )
    assert "One seed (0) was run" in said and "Remark" not in said


def test_negative_results_are_remarks():
    said = text_of(scores({**MEANS, "ZoDi": 18.0}))
    assert "Remark: ZoDi is 2.0 points below Source only" in said and "did harm here" in said
    assert (
        "does not show that the feature similarity helps" in said
        and "does not show that the transfer does more than this control" in said
    )
    several = text_of(scores({**MEANS, "ZoDi": 19.9, "Source + transferred": 19.9}, seeds=(0, 1, 2)))
    assert (
        "Remark: ZoDi is no better than Source + transferred" in several
        and "Means are over 3 seeds" in several
    )


def test_the_estimate_stands_beside_the_measured():
    said = text_of(scores())
    assert (
        "without any target image is 3.0 points above" in said
        and "ZoDi 31.0 against 28.0" in said
        and "names the same row" in said
    )
    assert "estimate" not in text_of(scores(estimate=None))
    turned = scores()
    for i, s in enumerate(turned):
        if s.metric == "miou_estimated" and s.method == "Source only":
            turned[i] = Score(**{**vars(s), "value": 60.0})
    assert "would have chosen another row" in text_of(turned)


def test_classes_are_no_metrics_of_their_own():
    rows = scores()
    assert metrics(rows) == ["miou", "miou_estimated", "pixel_accuracy", "miou_source"]
    table = score_table(rows, width=100, colour=False)
    assert (
        "iou.road" not in table
        and "mean IoU in percent on night" in table
        and "estimated on transferred" in table
    )
    assert summarise(rows, "iou.car").rows[0].mean == 30.0


def test_a_sum_of_sets_is_not_the_source_row():
    rows = [s for s in scores() if s.method != "Source only"]
    assert summarise(rows).reference is None
    assert summarise(scores()).reference.method == "Source only"


def test_the_page(tmp_path):
    html = page(tmp_path)
    assert EVIL not in html and "&lt;script&gt;" in html and "/data/private" not in html.split("Settings")[0]
    assert html.count("<h2>Scores:") == 1 and "Scores: mean IoU (%)" in html
    for words in (
        "estimate without target images",
        "IoU of each class on the target",
        "Quality control",
        "What was measured",
        "Refused scenes",
        "Published figures",
    ):
        assert words in html, words
    assert (
        "ZoDi, estimated" in html and "+8.0 to Source only" in html and "90 transferred test images" in html
    )
    assert "at least 0.4" in html and "5 to 90" in html and "edges 3" in html
    head = re.search(r'<p class="lead">(.*?)</p>', html, re.S)[1]
    assert "ZoDi: a segmenter for the domain" in head and "4 methods and 1 control on night" in head
    assert "stable-diffusion" in html and "driving at night, best quality" in html


def test_published_figures_only_beside_their_own_data(tmp_path):
    html = page(tmp_path / "a")
    row = next(line for line in html.split("<tr") if "ZoDi, final epoch" in line and "DeepLabv3+ R50" in line)
    assert 'class="marked"' in row and "24.7" in row and "oracle" in html
    assert read()["rows"][0]["values"] == [24.7, 45.7, 47.0, 56.1, 40.1] and all(
        len(r["values"]) == 5 for r in read()["rows"]
    )
    for made in (manifest(target="folder"), manifest(condition="")):
        assert "DeepLabv3+ R101" not in page(tmp_path / str(id(made)), made=made)
    other = manifest()
    other["config"]["segmenter"] = {"arch": "segformer", "backbone": "nvidia/mit-b2"}
    html = page(tmp_path / "c", made=other)
    assert "not comparable" in html and "segformer on mit-b2" in html


def test_runs_of_the_network_that_had_the_name_before_are_not_marked_as_the_published_one(tmp_path):
    """Their dropout, which their manifest states, tells them."""
    made = manifest()
    made["config"]["segmenter"]["dropout"] = 0.1
    html = page(tmp_path / "before", made=made)
    assert "not comparable" in html and 'class="marked"' not in html.split("ZoDi, final epoch")[1][:80]
    for dropout in (None, 0.5):
        made["config"]["segmenter"]["dropout"] = dropout
        assert "another network" not in page(tmp_path / str(dropout), made=made)


def test_gta5s_figures_are_of_the_authors_list(tmp_path):
    made = manifest(target="gta5")
    assert "1,000 of GTA5&#39;s validation frames; this run&#39;s are of other frames" in page(
        tmp_path / "all", made=made
    )
    made["config"]["target"]["split_file"] = "lists/gtav_split_val.txt"
    html = page(tmp_path / "list", made=made)
    assert "of other frames" not in html and "40.1" in html


def test_a_run_without_a_target(tmp_path):
    html = page(tmp_path, scores(target=False), manifest(target=""))
    assert (
        "There is no image of the target" in html
        and "of each class" not in html
        and "DeepLabv3+ R101" not in html
    )
    assert "Scores: mean IoU estimated on transferred test images of the source (%)" in html


def test_a_run_without_scores_decisions_or_labels(tmp_path):
    made = manifest()
    made.pop("decisions")
    html = page(tmp_path, [], made)
    assert "This run has no scores" in html and "The transfer" in html and "What was measured" not in html


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_seeds(tmp_path, seeds):
    html = page(tmp_path, scores(seeds=seeds))
    assert ("28.0 ± 0.5" in html) == (len(seeds) > 1) and ("standard deviation over the seeds" in html) == (
        len(seeds) > 1
    )


def test_detection_has_its_own_words(tmp_path):
    made = manifest(controls=())
    for name, info in made["nodes"].items():
        info["kind"] = {"segments": "boxes", "segmenter": "detector"}.get(info["kind"], info["kind"])
        assert name
    rows = [
        Score(
            **{
                **vars(s),
                "metric": (
                    {"miou": "map", "pixel_accuracy": "map50"}.get(s.metric, s.metric.replace("iou.", "ap."))
                ),
            }
        )
        for s in scores(controls={}, estimate=None)
        if s.metric != "miou_source"
    ]
    html = page(tmp_path, rows, made)
    assert (
        "ZoDi: a detector" in html
        and "Scores: mean average precision (%)" in html
        and "Average precision of each class" in html
        and "AP at IoU .50" in html
    )
    assert "DeepLabv3+ R101" not in html
