"""Diversity of synthetic images: the published numbers, what a run's features say of its sets, the report's
section, and the prompts' sweep."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from reportkit import fake_run
from sweepresults import fill
from test_report_adaptation import fit, manifest, node, scores

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.leniency import lenient
from diffadapt.core.recipes import load
from diffadapt.core.runs import Root
from diffadapt.data.config import DataConfig
from diffadapt.metrics.diversity import cosine_distance, drawn, of_samples, vendi_score
from diffadapt.report.html import render
from diffadapt.report.own import diversity as section
from diffadapt.run.diversity import Features, diversity
from diffadapt.sweeps.report.page import render as render_sweep
from diffadapt.sweeps.report.page import sweep_text
from diffadapt.sweeps.space import Choice, Space

CLASSES = tuple("abcd")


@pytest.mark.parametrize(("n", "width"), [(7, 30), (40, 6)])
def test_the_numbers_are_those_of_their_definitions(n, width):
    """Eigenvalues of the whole matrix of cosines, and every pair one by one."""
    x = np.random.default_rng(n).standard_normal((n, width)) + 1
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x] for a in x])
    p = np.linalg.eigvalsh(cosines / n)
    p = p[p > 1e-12]
    assert vendi_score(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    pairs = [1 - cosines[i, j] for i in range(n) for j in range(i)]
    assert cosine_distance(3 * x) == pytest.approx(np.mean(pairs), rel=1e-9)


def test_the_ends_of_the_scale():
    """Vendi-Score's own README: 1 for copies, 2 for two groups without likeness, n at right angles."""
    eye = np.eye(6)
    assert vendi_score(np.ones((5, 3))) == pytest.approx(1) and vendi_score(eye) == pytest.approx(6)
    assert vendi_score(eye[[0, 0, 1, 1]]) == pytest.approx(2)
    assert cosine_distance(np.ones((4, 3))) == pytest.approx(0) and cosine_distance(eye) == pytest.approx(1)
    with pytest.raises(DataError, match="two images"):
        cosine_distance(eye[:1])


def test_samples_are_disjoint_and_do_not_depend_on_the_order_of_shards():
    keys, x = [f"k{i}" for i in range(11)], np.random.default_rng(0).standard_normal((11, 4))
    order = drawn(keys)
    back = drawn(keys[::-1])
    assert [keys[i] for i in order] == [keys[::-1][i] for i in back]
    parts = [x[order[:5]], x[order[5:10]]]
    assert of_samples(x[order], 5)[0] == pytest.approx(np.mean([vendi_score(p) for p in parts]))
    with pytest.raises(DataError, match="a sample has 12"):
        of_samples(x, 12)


def run_of(*, features: str = "clip-features", filtered: bool = False, real: bool = False) -> dict:
    """The nodes of a run with synthetic images, as manifests have them."""
    cached = features == "features"
    nodes = {"target": node("images"), "synth": node("synth")}
    if features:
        nodes |= {f"f.{n}": node(features, [n]) for n in ("synth", "target")}
        if cached:
            nodes["ssl"] = node("features", ["target"])
    if filtered:
        nodes["filter"] = node("filter", ["synth"])
    sets = ("f.synth", "f.target") if cached else ("synth", "target")
    nodes["mcc"] = fit("uda", "mcc", *sets, *(["filter"] if filtered else []), name="mcc")
    if real:
        nodes |= {"images.art": node("images"), "f.art": node(features, ["images.art"])}
        nodes["mcc.art"] = fit("uda", "mcc", "images.art", "target", name="mcc.art")
    return manifest() | {"nodes": nodes, "class_names": list(CLASSES), "outputs": {"target": "target"}}


def drawn_features(spread: float, a_class: int = 30, labels: bool = True, seed: int = 0) -> Features:
    """Classes around means of their own, ``spread`` apart."""
    rng = np.random.default_rng(seed)
    known = np.repeat(np.arange(len(CLASSES)), a_class)
    values = np.eye(len(CLASSES), 12)[known] + spread * rng.standard_normal((len(known), 12))
    return Features([f"i{seed}/{i}" for i in range(len(known))], known if labels else known * 0 - 1, values)


def measured(made: dict, kept=frozenset(), **sets: Features):
    return diversity(made, lambda n: sets[n.removeprefix("f.")], lambda n: set(kept))


def test_every_set_is_measured_on_as_many_images():
    plain, varied = drawn_features(0.05), drawn_features(0.6, 60, seed=1)
    found = measured(run_of(real=True), synth=plain, target=drawn_features(0.6, 70), art=varied)
    by = {s["kind"]: s for s in found["sets"]}
    assert list(by) == ["synthetic", "source", "target"] and found["missing"] == []
    assert [list(by[k]["classes"]) for k in by] == [["4", "10", "20"], ["4", "10", "20", "50"], []]
    one, other = by["synthetic"]["classes"]["20"], by["source"]["classes"]["20"]
    assert 1 < one["vendi"] < 1.3 < 4 < other["vendi"] and one["distance"] < 0.05 < 0.4 < other["distance"]
    head, rows = section.table(found)
    assert "Vendi score, 20 of a class" in head and "Vendi score, 100 of all" in head
    assert rows[2][:4] == ["target", "280", "-", "-"] and float(rows[2][4]) > float(rows[0][4])
    assert section.class_diversity(found) == {s: v["vendi"] for s, v in by["synthetic"]["classes"].items()}


def test_labels_of_the_target_are_not_looked_at():
    a, b = (
        measured(run_of(), synth=drawn_features(0.1), target=drawn_features(0.6, labels=known))
        for known in (True, False)
    )
    assert a == b and a["sets"][1]["kind"] == "target"


def test_what_the_filters_left_out_counts_nowhere():
    whole = drawn_features(0.3)
    kept = {k for i, k in enumerate(whole.keys) if i % 2}
    found = measured(run_of(filtered=True), kept, synth=whole, target=whole)
    assert found["sets"][0]["images"] == 60 and found["sets"][0]["filtered"]
    assert list(found["sets"][0]["classes"]) == ["4", "10"] and found["sets"][1]["images"] == 120


def test_cached_features_of_a_frozen_backbone_serve():
    made = run_of(features="features")
    made["config"]["backbone"] |= {"frozen": True, "name": "own/timm"}
    found = measured(made, synth=drawn_features(0.1), target=drawn_features(0.1))
    assert found["features"] == "cached features of timm" and len(found["sets"]) == 2


def test_what_is_missing_is_said_and_runs_without_synthetic_images_say_nothing():
    none = measured(run_of(features=""))
    assert none["sets"] == [] and "no features of its synthetic images" in none["missing"][0]
    small = measured(run_of(), synth=drawn_features(0.1, 3), target=drawn_features(0.1))
    assert "classes of synthetic are too small" in small["missing"][0]
    real = run_of()
    real["nodes"]["mcc"]["inputs"] = ["target", "target"]
    assert measured(real) is None


def test_the_report_has_the_section(tmp_path):
    made = run_of()
    found = measured(made, synth=drawn_features(0.05), target=drawn_features(0.6, 70))
    run = fake_run(tmp_path, scores=scores(), manifest=made)
    assert "Diversity of the synthetic" not in render(run)
    run.write(section.FILE, json.dumps(found).encode())
    page = render(run)
    assert "Diversity of the synthetic images" in page and "<td>120</td>" in page
    assert "image features of CLIP" in page and "labels are not looked at" in page


def test_a_sweep_over_prompts_shows_the_diversity_beside_the_accuracy(tmp_path):
    space = Space({"prompts.prompts_per_class": Choice(1, 5, 25), "seeds": Choice((0,), (1,))})

    def with_diversity(r):
        vendi = 1 + r.values["prompts.prompts_per_class"] / 10
        return replace(r, diversity={"5": vendi, "20": 2 * vendi} if r.number else {"5": vendi, "10": 9.0})

    sweep = fill(tmp_path, space, lambda v, r: (1.0, 50.0), change=with_diversity)
    text, page = sweep_text(sweep, width=120, colour=False), render_sweep(sweep)
    assert "Vendi score (5)" in text and "3.50" in text and "effective number of different images" in text
    assert page.count("Vendi score (5)") > 2  # table, lines, a curve
    plain = fill(tmp_path, space, lambda v, r: (1.0, 50.0), name="plain")
    assert "Vendi" not in sweep_text(plain, width=120, colour=False) + render_sweep(plain)


def test_recipes_grow_by_the_features_alone(tmp_path):
    """What ran before is served as it was; without CLIP, synthetic images or the option nothing is added."""
    store = Root(str(tmp_path)).store

    def nodes(name, **changes):
        recipe = load(name)
        return {
            n: [p.digest for p in plan.shards]
            for n, plan in replace(recipe, **changes).pipeline().plan(store).items()
        }

    before = nodes("adapt_anything/digits", diversity=False, controls=("direct", "unfiltered"))
    after = nodes("adapt_anything/digits")
    added = {n for n in after if n not in before}
    assert {n: after[n] for n in before} == before
    assert {n for n in added if n.startswith("clip_features")} == {
        "clip_features.synth",
        "clip_features.target",
    }
    assert {n.partition(".")[0] for n in added} == {
        "clip_features",
        "split_zero_shot",
        "zero_shot_fixmatch",
        "zero_shot_fixmatch_on_target",
    }
    digits = load("adapt_anything/digits")
    off = replace(digits, clip=replace(digits.clip, weights="")).pipeline()
    assert not any("clip" in n.name or "zero_shot" in n.name for n in off.nodes)
    with pytest.raises(RecipeError, match="controls"):
        replace(digits, controls=("clipp",)).pipeline()


def test_a_benchmark_with_a_stage_2_has_the_control_of_each_target():
    with lenient():
        made = replace(load("adapt_anything/visda2017/synthetic"), data=DataConfig(path="absent"))
        full, bare = made.pipeline(), replace(made, controls=(), diversity=False).pipeline()
        real = replace(load("adapt_anything/visda2017/all"), data=DataConfig(path="absent")).pipeline()
    taught = [r for r in full.rows if r not in bare.rows]
    assert [(r.name, r.role.partner, r.control, r.group) for r in taught[:2]] == [
        (f"CLIP zero-shot + {ssl}", f"CDAN + {ssl}", True, "synthetic-validation")
        for ssl in ("FixMatch", "MixMatch")
    ]
    assert len(taught) == 2 * len(made.seeds) and full.result() == bare.result()
    nodes = {n.name: n for n in full.nodes}
    assert all(nodes[n.name] == n for n in bare.nodes)
    assert nodes["clip_features.images.validation"].stage.shards and nodes["split_zero_shot.validation"]
    assert not any(n.name.startswith(("clip_", "split_")) for n in real.nodes)
