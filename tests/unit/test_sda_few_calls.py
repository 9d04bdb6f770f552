"""SDA's rows of a few network calls, on a few digits: what they are made of, the level that is chosen without
labels, what the run says of their cost, and predictions with their aligner."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffadapt.api.runners import make_runner
from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root, Run
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.data.image import decode
from diffadapt.diffusion.aligners.config import LevelConfig
from diffadapt.diffusion.network import load_unconditional
from diffadapt.diffusion.projector import Projector
from diffadapt.metrics.validators import OF_CANDIDATES, of_candidates
from diffadapt.report.html import write_report
from diffadapt.run.drive import drive
from diffadapt.stages.choose_level import ChooseLevel
from diffadapt.systems.predict import _folder, from_run
from diffadapt.systems.sda.recipe import SDA
from diffadapt.train.reporter import LocalReporter
from tests.tiny import tiny_sda

LEVELS = (40, 150, 900)
ROW = "SDA (one step, 1 call)"


def recipe(**changes) -> SDA:
    full = tiny_sda(methods=("source", "sda"), controls=(), figures=False, cheap=("one-step",))
    full = replace(
        full,
        target=replace(full.target, data=replace(full.target.data, limit_per_class=1, block=5)),
        synth=replace(full.synth, images_per_class=4, images_per_shard=4, steps=2),
        align=replace(full.align, respacing=5, start=1),
        classifier_fit=replace(full.classifier_fit, epochs=1),
        level=LevelConfig(levels=LEVELS, images=8),
    )
    return replace(full, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    torch.set_num_threads(1)
    value = recipe()
    root = Root(str(tmp_path_factory.mktemp("root")))
    return drive("small", value, value.pipeline(), root, lambda: make_runner(value.execution))


def shards(run: Run, node: str):
    return [run.root.store.load(s[3]) for s in run.manifest()["nodes"][node]["shards"]]


def test_the_row_has_its_own_images_and_classifier(run):
    nodes = run.manifest()["nodes"]
    found = {n: nodes[n]["inputs"] for n in nodes if "one_step" in n}
    assert found["projected_one_step"] == ["target", "level_one_step"]
    assert found["aligned_one_step"] == ["synth", "level_one_step"]
    assert found["finetuned_one_step"][0] == "aligned_one_step"
    assert found["finetuned_one_step_on_projected"] == ["projected_one_step", "finetuned_one_step"]
    rows = [r["name"] for r in run.manifest()["rows"]]
    assert rows.index(ROW) < rows.index("SDA") == len(rows) - 1, "SDA stays the run's result"


def test_images_are_projected_at_the_chosen_level(run):
    level = network_calls(run)[ROW]["level"]["level"]
    config = recipe().cheap_align("one-step").at(level)
    network = load_unconditional("embedded:digits-unet")
    for before, after in zip(shards(run, "target"), shards(run, "projected_one_step"), strict=True):
        x = [decode(i["bytes"], 1, "") for i in before.column("image")]
        wanted = Projector(network, config).project(
            torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2), after.column("seed")
        )
        got = np.stack([decode(i["bytes"], 1, "") for i in after.column("image")])
        assert np.abs(wanted.permute(0, 2, 3, 1).numpy().astype(int) - got).max() <= 1


def network_calls(run: Run) -> dict[str, dict]:
    found = json.loads(run.read("network_calls.json"))
    counted = {r["passes"]: r["gflop"] for r in found["rows"]}
    assert 1e-3 < counted[1] < 1 and counted[min(n for n in counted if n > 1)] > 1.5 * counted[1]
    return {r["row"]: r for r in found["rows"]}


def test_the_run_says_calls_and_the_choice_beside_that_of_labels(run):
    found = network_calls(run)
    assert (found[ROW]["forward"], found[ROW]["backward"], found[ROW]["passes"]) == (1, 0, 1)
    assert (found["SDA"]["forward"], found["SDA"]["backward"], found["SDA"]["passes"]) == (1, 1, 3)
    level = found[ROW]["level"]
    assert level["images"] == 8 and sorted(level["scores"]) == sorted(map(str, LEVELS))
    assert level["level"] == max(LEVELS, key=lambda n: (level["scores"][str(n)], -n))
    assert level["oracle"] == max(LEVELS, key=lambda n: (level["accuracy"][str(n)], -n))
    write_report(run)
    html = run.read("report.html").decode()
    assert "Accuracy against the cost of projection" in html and "whose labels were not looked at" in html
    assert "projection of the target, one step" in html and "choice of the level of noise, one step" in html


def test_the_choice_looks_at_no_label(run, tmp_path):
    """Shards whose labels are others give the same level and scores."""
    stage = recipe().pipeline()
    (node,) = [n for n in stage.nodes if n.name == "level_one_step"]
    assert isinstance(node.stage, ChooseLevel)
    store, nodes = run.root.store, run.manifest()["nodes"]
    path = nodes["target"]["shards"][0][3]
    rows = store.load(path)
    blind = rows.table.set_column(1, "label", [[None] * len(rows)]).cast(rows.table.schema)
    fitted = {"classifier": _folder(run, run.manifest(), "classifier")}
    found = []
    for table in (rows.table, blind):
        file = InputFile("target", "d", path, Shard("a", {"group": "g"}))
        job = FitJob(
            "level", lambda name: [], store, "", str(tmp_path), WorkContext("cpu", fitted),
            LocalReporter("cpu"), lambda f, t=table: Rows(t), files=[file],
        )  # fmt: skip
        found.append(node.stage.fit(job))
    assert found[0] == found[1] and found[0]["images"] == 5


def test_predictions_take_the_rows_aligner_and_level(run):
    level = network_calls(run)[ROW]["level"]["level"]
    manifest = run.manifest()
    cheap = from_run(run, "x/*.png", recipe().execution, 4, ROW)
    assert cheap.project.guidance == "one-step" and cheap.project.one_step.level == level
    assert cheap.finetuned.name.endswith(manifest["nodes"]["finetuned_one_step"]["shards"][0][3])
    published = from_run(run, "x/*.png", recipe().execution, 4)
    assert published.project.guidance == "dda"
    assert published.finetuned.name.endswith(manifest["nodes"]["finetuned"]["shards"][0][3])
    with pytest.raises(RecipeError, match=r"--row has no 'SDA \(x0, 3 calls\)'. Did you mean"):
        from_run(run, "x/*.png", recipe().execution, 4, "SDA (x0, 3 calls)")


def test_without_the_method_there_are_no_rows_of_it():
    names = [n.name for n in recipe(methods=("source", "dda")).pipeline().nodes]
    assert "projected" in names and not {"synth", "projected_one_step"} & set(names)


def test_a_level_that_is_given_is_not_chosen():
    value = recipe()
    value = replace(value, align=value.cheap_align("one-step").at(150), cheap=("x0",))
    names = [n.name for n in value.pipeline().nodes]
    assert "level" not in names and "level_x0" in names
    auto = replace(value, align=value.cheap_align("one-step"))
    auto = replace(auto, align=replace(auto.align, one_step=replace(auto.align.one_step, level="auto")))
    nodes = {n.name: n.inputs for n in auto.pipeline().nodes}
    assert nodes["projected"][-1] == nodes["aligned"][-1] == "level"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cheap": ("one-stp",)}, "cheap has no 'one-stp'. Did you mean 'one-step'"),
        ({"cheap": ("x0", "x0")}, "cheap has 'x0' twice"),
        ({"level": LevelConfig(levels=(100,))}, "level.levels is 100, but a level is chosen among two"),
        ({"level": LevelConfig(levels=(1, 100)), "cheap": ("x0",)}, "align.x0.calls is 3 but must be 1 to 2"),
    ],
)
def test_choices_that_cannot_be_made_are_refused_while_planning(changes, said, tmp_path):
    with pytest.raises(RecipeError, match=said):
        replace(recipe(), **changes).pipeline().plan(Root(str(tmp_path)).store)


def test_candidates_are_scored_as_they_are_one_by_one():
    logits = np.random.default_rng(0).normal(size=(3, 20, 4))
    assert set(OF_CANDIDATES) >= {"corrc", "im", "ensv"}
    for rule in OF_CANDIDATES:
        assert of_candidates(rule, logits).shape == (3,)
    sure = np.stack([logits[0], 20 * np.eye(4)[np.arange(20) % 4]])
    assert of_candidates("corrc", sure).argmax() == 1, "sure and balanced"
