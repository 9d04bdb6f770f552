"""What the rows of every recipe mean: stated by the recipe, kept by the manifest, joined to the scores; and what
is guessed of runs that state nothing (older versions') is the same."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from reportkit import fake_manifest, fake_run, fake_scores

from diffadapt.core.pipeline import SOURCE, MethodRow, Pipeline, Role
from diffadapt.core.record import Score
from diffadapt.report.findings import findings
from diffadapt.report.html import render
from diffadapt.report.old_runs import by_title
from diffadapt.report.roles import roles, system
from diffadapt.report.summary import summarise
from diffadapt.systems.adapt_anything import AdaptAnything
from diffadapt.systems.sda import SDA
from diffadapt.systems.zodi import METHODS, VARIANTS, Zodi, ZodiDetection
from tests.tiny import tiny_adaptation, tiny_sda
from tests.tiny_scenes import tiny_detection, tiny_zodi


def manifest_of(recipe: SDA | AdaptAnything | Zodi | ZodiDetection, pipeline: Pipeline) -> dict:
    nodes = {
        n.name: {"kind": n.stage.kind, "identity": n.stage.identity(), "inputs": list(n.inputs), "shards": []}
        for n in pipeline.nodes
    }
    config = {"uda": {}, "ssl": {}} if isinstance(recipe, AdaptAnything) else {}
    rows = [asdict(r) for r in pipeline.rows]
    return fake_manifest(config=config, nodes=nodes, rows=rows, system=pipeline.system)


def silent(manifest: dict) -> dict:
    """The manifest as an older version wrote it."""
    rows = [{k: v for k, v in row.items() if k != "role"} for row in manifest["rows"]]
    return {k: v for k, v in {**manifest, "rows": rows}.items() if k != "system"}


RECIPES = {
    "sda": lambda: tiny_sda(methods=("source", "diffpure", "memo", "tent", "gda", "dda", "sda")),
    "adaptation": lambda: tiny_adaptation("embedded:glyphs"),
    "adaptation of one step": lambda: replace(tiny_adaptation("embedded:glyphs"), controls=(), seeds=(0, 1)),
    "zodi": lambda: tiny_zodi("embedded:streets", variants=tuple(v for v in VARIANTS if v != "aligned")),
    "zodi without both": lambda: tiny_zodi(
        "embedded:streets", methods=("source_only", "transferred_only", "zodi")
    ),
    "zodi alone": lambda: tiny_zodi("embedded:streets", methods=("zodi",)),
    "detection": lambda: tiny_detection("embedded:streets"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_states_is_what_would_be_guessed(name):
    recipe = RECIPES[name]()
    pipeline = recipe.pipeline()
    made = manifest_of(recipe, pipeline)
    assert system(made) == system(silent(made)) == pipeline.system != ""
    assert all(r.role.kind for r in pipeline.rows)
    if pipeline.system != "sda":
        assert roles(made) == roles(silent(made))


def test_the_roles_of_sda_are_those_that_its_titles_tell():
    rows = RECIPES["sda"]().pipeline().rows
    scores = [
        Score("r", r.name, r.control, "fog/5", "fog", 5, "top1", 50.0, 9, 9, 0, note=r.note, role=r.role)
        for r in rows
    ]
    stated = {r.method: r.role for r in summarise(scores).rows}
    assert stated == by_title(summarise(scores).rows) and stated["SDA"].partner == "DDA"


def test_scores_know_their_rows_roles_and_the_table_does_not_keep_them(tmp_path):
    role = Role(SOURCE, published="Source")
    made = fake_manifest(rows=[asdict(MethodRow("Unadapted", ("a",), role=role))], system="sda")
    score = Score("r", "Unadapted", False, "fog/5", "fog", 5, "top1", 50.0, 9, 9, 0)
    run = fake_run(
        tmp_path, manifest=made, scores=[replace(score, role=role), replace(score, method="X", value=60)]
    )
    (first, second) = run.scores()
    assert first.role == role and second.role == Role()
    table = summarise(run.scores())
    assert table.reference is not None and table.reference.method == "Unadapted"
    run.write("manifest.json", b"damaged")
    assert [s.role for s in run.scores()] == [Role(), Role()]


def test_words_come_from_the_role_not_from_the_title():
    rows = [MethodRow("A", ("a",), role=Role(SOURCE)), MethodRow("B", ("b",), role=Role("result", "A"))]
    rows.append(MethodRow("C", ("c",), control=True, role=Role("control", otherwise="B is nothing new")))
    scores = [
        Score("r", r.name, r.control, "fog/5", "fog", 5, "top1", v, 90, 90, 0, role=r.role)
        for r, v in zip(rows, (40.0, 60.0, 65.0), strict=True)
    ]
    said = findings(scores, manifest={"system": "mine"})
    assert said[0].startswith("B is 20.0 points above A")
    assert "Remark: B is 5.0 points below the control C" in said[1] and "B is nothing new." in said[1]


def test_a_run_of_no_known_system_has_a_report(tmp_path):
    made = json.loads(json.dumps(fake_manifest(system="mine")))
    page = render(fake_run(tmp_path, manifest=made, scores=fake_scores()))
    assert "Adaptation of a classifier without target labels: 7 methods" in page and "The paper" not in page


def test_titles_of_methods_are_the_partners_that_roles_name():
    named = {r.name for r in RECIPES["zodi"]().pipeline().rows}
    assert set(METHODS.values()) <= named
