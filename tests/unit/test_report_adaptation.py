"""Reports of Adapt Anything: the steps, their honest reading, seeds and transfers, targets without labels.
All numbers are invented."""

from __future__ import annotations

import json
import re

import pytest
from reportkit import fake_manifest, fake_run

from diffadapt.commands.common import show_result
from diffadapt.core.ledger import Measured
from diffadapt.core.record import Score
from diffadapt.report.findings import findings
from diffadapt.report.html import render
from diffadapt.report.summary import difference, summarise
from diffadapt.report.table import score_table
from diffadapt.run.device_hours import device_hours
from diffadapt.systems.adapt_anything.findings import ladder
from diffadapt.systems.adapt_anything.report import tiles, unlabelled_text

EVIL = "<script>alert(1)</script>"
MAIN = {"CLIP zero-shot": 40.0, "Synthetic only": 60.0, "DANN": 68.0, "DANN + FixMatch": 80.0}
DIRECT = "Synthetic only + FixMatch"


def node(kind: str, inputs=(), identity=None, shards=1, items=600, revisions=None, name="x") -> dict:
    return {
        "kind": kind,
        "version": 1,
        "identity": identity or {},
        "revisions": revisions or {},
        "inputs": list(inputs),
        "family": "0123456789abcdef",
        "shards": [[f"s{i}", f"{name}{i}", items, f"{kind}/{name}-{i}"] for i in range(shards)],
        "quarantined": [],
    }


def fit(kind: str, method: str, *inputs: str, name: str) -> dict:
    return node(kind, inputs, {"config": {"method": method, "lr": 0.01}}, name=name)


def manifest(
    generator: str = "embedded:glyphs",
    select: str = "last",
    frozen: bool = False,
    zero_shot: bool = True,
    **more,
) -> dict:
    nodes = {
        "target": node("images"),
        "prompts": node("prompts"),
        "synth": node("synth", ["prompts"], revisions={"generator": "sha256:feed"}, items=500),
        "filter": node("filter", ["synth"], name="filter"),
        "zero_shot": node("zero-shot", ["target"]),
        "source_only": fit("uda", "source_only", "synth", "target", "filter", name="source_only"),
        "source_only_on_target": node("logits", ["target", "source_only"]),
        "dann": fit("uda", "dann", "synth", "target", "filter", name="dann"),
        "dann_on_target": node("logits", ["target", "dann"]),
        "split_dann": node("split", ["dann_on_target"], name="split"),
        "dann_fixmatch": fit("ssl", "fixmatch", "target", "split_dann", "dann", name="fixmatch"),
        "dann_fixmatch_on_target": node("logits", ["target", "dann_fixmatch"]),
        "source_only_fixmatch": fit("ssl", "fixmatch", "target", "split_dann", "source_only", name="direct"),
        "direct_on_target": node("logits", ["target", "source_only_fixmatch"]),
        "plain": fit("uda", "dann", "synth", "target", name="plain"),
        "plain_on_target": node("logits", ["target", "plain"]),
    }
    members = {
        "CLIP zero-shot": "zero_shot",
        "Synthetic only": "source_only_on_target",
        "DANN": "dann_on_target",
        "DANN + FixMatch": "dann_fixmatch_on_target",
    }
    controls = {DIRECT: "direct_on_target", "DANN, unfiltered": "plain_on_target"}
    if not zero_shot:
        members.pop("CLIP zero-shot")
    rows = [
        {"name": n, "members": [m], "control": n in controls, "selection": select, "seed": 0, "group": ""}
        for n, m in {**members, **controls}.items()
    ]
    config = {
        "seed": 0,
        "uda": {"method": "dann"},
        "ssl": {"method": "fixmatch"},
        "generator": {"weights": generator, "images_per_class": 50, "guidance": 4.0},
        "backbone": {"name": "train", "arch": "cifar_resnet8", "frozen": frozen},
        "select": {"rule": select},
        "split": {"threshold": 0.9},
        "domain": "handwritten digits",
    }
    return {
        **fake_manifest("adapt_anything", config=config),
        "nodes": nodes,
        "rows": rows,
        "outputs": {"target": "target", "model": "dann_fixmatch"},
        **more,
    }


def scores(
    main=MAIN,
    controls=None,
    seeds=(0,),
    groups=("target/0",),
    selection="last",
    metric="top1",
    images=50000,
    wobble=0.4,
) -> list[Score]:
    controls = {DIRECT: 79.0, "DANN, unfiltered": 66.0} if controls is None else controls
    out = []
    for name, mean in {**main, **controls}.items():
        for s in seeds if name != "CLIP zero-shot" else seeds[:1]:
            for i, g in enumerate(groups):
                value = mean + wobble * (s - 1) * (len(seeds) > 1) + 2 * i
                out.append(
                    Score(
                        "r",
                        name,
                        name in controls,
                        g,
                        g.split("/")[0],
                        0,
                        metric,
                        value,
                        images,
                        images,
                        s,
                        selection,
                    )
                )
    return out


def text_of(rows, made=None) -> str:
    return "\n".join(findings(rows, manifest=made or manifest()))


def test_the_rows_places_are_read_off_the_graph_not_off_their_names():
    made = manifest()
    for row in made["rows"]:
        row["name"] = {"Synthetic only": "Erste", "DANN": "Zweite"}.get(row["name"], row["name"])
    steps = ladder(made)
    assert (steps.base, steps.stage1, steps.stage2, steps.zero_shot) == (
        "Erste",
        ("Zweite",),
        ("DANN + FixMatch",),
        "CLIP zero-shot",
    )
    assert steps.starts == {"DANN + FixMatch": "Zweite", DIRECT: "Erste"} and steps.direct == (DIRECT,)
    assert steps.unfiltered == {"DANN, unfiltered": "Zweite"} and steps.result == "DANN + FixMatch"


def test_every_step_has_its_sentence_and_the_control_its_share():
    text = text_of(scores())
    assert (
        "DANN is 8.0 points above Synthetic only" in text
        and "DANN + FixMatch is 12.0 points above DANN" in text
    )
    assert "DANN + FixMatch is 1.0 points above the control Synthetic only + FixMatch" in text
    assert "Of the +20.0 points over Synthetic only, the control has +19.0." in text
    assert (
        "DANN is 2.0 points above the control DANN, unfiltered" in text
        and "DANN + FixMatch is 40.0 points above CLIP zero-shot" in text
    )
    assert "Remark" not in text


@pytest.mark.parametrize(
    ("main", "controls", "means"),
    [
        ({"DANN": 55.0}, {}, "DANN is 5.0 points below Synthetic only .*: stage 1 did harm here"),
        (
            {"DANN + FixMatch": 4.0},
            {},
            "DANN \\+ FixMatch is 64.0 points below DANN .*: stage 2 did harm here",
        ),
        (
            {},
            {DIRECT: 82.0},
            (
                "2.0 points below the control Synthetic only \\+ FixMatch .*: this run does not show that"
                " stage 1 adds anything to stage 2"
            ),
        ),
        (
            {},
            {"DANN, unfiltered": 69.0},
            "1.0 points below the control DANN, unfiltered .*: this run does not show that the filters help",
        ),
        (
            {"CLIP zero-shot": 90.0},
            {},
            "CLIP zero-shot, which was trained on nothing here, is 10.0 points above DANN \\+ FixMatch",
        ),
    ],
)
def test_what_did_not_help_is_remarked(main, controls, means):
    found = findings(scores({**MAIN, **main}, controls), manifest=manifest())
    assert [s for s in found if s.startswith("Remark:") and re.search(means, s)], found


def test_no_harm_is_claimed_where_the_rows_do_not_tell():
    text = text_of(scores({**MAIN, "DANN": 59.0}, {}, images=600))
    assert (
        "Remark: DANN is 1.0 points below Synthetic only" in text
        and "do not tell the two apart" in text
        and "did harm" not in text
    )


def test_many_methods_are_told_in_one_sentence():
    made = manifest()
    values = {"Source only": 60.0, "DANN": 65.0, "CDAN": 66.0, "MCD": 58.0, "MCC": 70.0}
    made["nodes"] |= {m.lower(): fit("uda", m.lower(), name=m) for m in values} | {
        f"{m.lower()}_on": node("logits", ["target", m.lower()]) for m in values
    }
    made["nodes"]["source only"] = fit("uda", "source_only", name="s")
    made["rows"] = [{"name": m, "members": [f"{m.lower()}_on"], "control": False} for m in values]
    text = text_of(scores(values, {}, groups=("amazon-webcam", "webcam-amazon"), seeds=(0, 1, 2)), made)
    assert "3 of 4 methods are above Source only: DANN +5.0, CDAN +6.0, MCC +10.0 points." in text
    assert "Remark: 1 of 4 methods are not above Source only: MCD -2.0 points." in text


def test_seeds_give_a_deviation_and_paired_differences():
    rows = scores(seeds=(0, 1, 2), groups=("amazon-webcam", "dslr-webcam"))
    table = summarise(rows)
    base, dann = table.reference, table.named("DANN")
    assert (
        base.deviation == pytest.approx(0.4)
        and base.standard_error is None
        and base.mean == pytest.approx(61.0)
        and table.group_noun == "transfers"
    )
    d = difference(dann, base)
    assert (d.seeds, d.seeds_higher, d.standard_error) == (3, 3, pytest.approx(0.0, abs=1e-9)) and d.separated
    text = score_table(rows, width=120, colour=False)
    assert (
        "s.d." in text
        and "3 seeds (0, 1, 2)" in text
        and "-Synthetic" in text
        and "A-W" in text
        and "D-W" in text
    )
    assert "Means are over 3 seeds" in text_of(rows) and "higher with 3 of 3 seeds" in text_of(rows)
    assert "1 seed" in text  # CLIP was run once


def test_seeds_that_do_not_agree_are_said():
    rows = [
        Score("r", n, False, "target/0", "target", 0, "top1", v, 600, 600, s)
        for n, vs in (("Synthetic only", (60, 60, 60)), ("DANN", (66, 59, 61)))
        for s, v in enumerate(vs)
    ]
    text = text_of(rows)
    assert "higher with 2 of 3 seeds" in text and "The seeds do not agree" in text


def test_class_means_are_percent_without_a_binomial_error():
    text = score_table(scores(metric="class_mean"), width=120, colour=False)
    assert "mean of the classes' accuracies in percent" in text and "s.e." not in text
    assert "68.0 against 60.0 %" in text_of(scores(metric="class_mean"))


def test_initials_that_clash_are_written_longer():
    rows = scores(groups=("real-product", "repro-product"))
    text = score_table(rows, width=150, colour=False)
    assert "Real-Prod" in text and "Repr-Prod" in text


def run_folder(tmp_path, made, rows, **more):
    run = fake_run(tmp_path, "adapt_anything-0123abcd", scores=rows, manifest=made, **more)
    store = run.root.store
    split = {
        "images": 600,
        "confident": 300,
        "confident_fraction": 0.5,
        "above_threshold": 0.42,
        "mean_confidence": 0.8,
        "coverage": 0.9,
        "per_class": {str(c): [60, 30] for c in range(9)} | {"9": [0, 0]},
        "never_predicted": ["9"],
        "warnings": [],
    }
    for folder in ("split/split-0", "filter/filter-0", "uda/dann-0"):
        store.write_bytes(f"{folder}/_SUCCESS", b"")
    store.write_bytes("split/split-0/metrics.json", json.dumps(split).encode())
    classes = {
        "zero": {"made": 50, "kept": 20, "blank": 30, "clip": 0},
        EVIL: {"made": 50, "kept": 50, "blank": 0, "clip": 0},
    }
    store.write_bytes(
        "filter/filter-0/metrics.json", json.dumps({"images": 100, "kept": 70, "classes": classes}).encode()
    )
    store.write_bytes(
        "uda/dann-0/metrics.json",
        json.dumps(
            {
                "selection": {
                    "rule": "im",
                    "chosen_step": 150,
                    "scores": {"100": 1.0, "150": 2.0},
                    "note": "said so",
                }
            }
        ).encode(),
    )
    run.write(
        "warnings.json",
        json.dumps([{"node": "split_dann", "sentence": f"Only 4 % is confident {EVIL}"}]).encode(),
    )
    nodes = {"source_only_on_target": {"im": 0.5, "ensv": 0.7}, "dann_on_target": {"im": 0.9, "ensv": 0.6}}
    run.write("validators.json", json.dumps({"nodes": nodes, "notes": {"ensv": "of 2"}}).encode())
    prompts = {
        "prompts": [{"class": "zero", "prompt": f"a zero {EVIL}", "source": "bank"}],
        "sources": ["bank"],
        "classes": 10,
    }
    run.write("figures/prompts.json", json.dumps(prompts).encode())
    return run


def test_the_page_says_what_made_the_images_and_shows_every_step(tmp_path):
    text = render(run_folder(tmp_path, manifest(), scores()))
    for words in (
        "Adapt Anything",
        "toy generator",
        "embedded:glyphs (revision sha256:feed)",
        "500 synthetic images",
        "handwritten digits",
        "control: Synthetic only + FixMatch",
        "+12.0 to DANN",
        "to Synthetic only",
        "Warnings",
        "Only 4 % is confident",
        "70 of 100 images kept",
        "300 (50 %)",
        "9 of 10",
        "predicts no image as: 9",
        "The last epoch was kept",
        "a zero",
        "9 more classes",
        "what the validators say",
        "0.9000",
    ):
        assert words in text, words
    assert "<script" not in text.lower() and "The paper's figures" not in text and "SDA" not in text


def test_other_generators_are_no_toys_and_a_missing_baseline_is_explained(tmp_path):
    text = render(
        run_folder(
            tmp_path,
            manifest("stabilityai/sd-turbo", zero_shot=False),
            scores({n: v for n, v in MAIN.items() if "CLIP" not in n}),
        )
    )
    assert (
        "toy" not in text
        and "stabilityai/sd-turbo" in text
        and "CLIP zero-shot, the baseline that needs no training, was not run" in text
    )
    assert "Frozen-feature mode" in render(run_folder(tmp_path, manifest(frozen=True), scores()))


def test_an_oracle_is_stamped_and_a_validator_named(tmp_path):
    oracle = render(run_folder(tmp_path, manifest(select="oracle"), scores(selection="oracle")))
    assert (
        "DANN + FixMatch [oracle]" in oracle
        and "target labels chose the epoch" in oracle.lower()
        and "upper bound" in oracle
    )
    assert "by the validator <b>im</b>" in render(
        run_folder(tmp_path, manifest(select="im"), scores(selection="im"))
    )


def test_without_labels_validators_take_the_place_of_accuracy(tmp_path, capsys):
    run = run_folder(tmp_path, manifest(), [])
    text = render(run)
    assert (
        "no accuracy is known" in text
        and "<h2>Without labels</h2>" in text
        and "classes predicted" in text
        and "<h2>Scores" not in text
    )
    shown = unlabelled_text(run, manifest(), width=100, colour=False)
    assert "DANN" in shown and "0.9000" in shown and "9 of 10 classes are predicted" in shown
    run.write("predictions.parquet", b"x")
    run.write("model/config.json", b"{}")
    capsys.readouterr()
    show_result(run)
    out = capsys.readouterr().out
    assert (
        "Warning: Only 4 % is confident" in out
        and re.search(r"model +\S+/model\n", out)
        and "predictions.parquet" in out
        and "No scores" not in out
    )


def test_published_figures_stand_beside_a_benchmarks_rows(tmp_path):
    made = manifest()
    made["config"]["benchmark"] = "office31"
    text = render(
        run_folder(tmp_path, made, scores(groups=("synthetic-webcam", "synthetic-dslr"), seeds=(0, 1, 2)))
    )
    block = text[text.index("Published figures") :]
    assert re.search(
        r'scope="row">DANN</th><td>86.1</td>.*?<td class="best">69.0</td><td>± 0.4</td>', block, re.S
    )
    assert "not run" in block and "The source here is synthetic" in block and "mean over 2 transfers" in block
    made["config"]["benchmark"] = "imageclef"
    assert "Published figures" not in render(run_folder(tmp_path, made, scores()))


def test_a_lost_store_or_damaged_files_leave_gaps_not_errors(tmp_path):
    run = fake_run(tmp_path, "adapt_anything-0123abcd", scores=scores(), manifest=manifest())
    for name in ("warnings.json", "validators.json", "figures/prompts.json"):
        run.write(name, b"{nonsense")
    text = render(run)
    assert "DANN + FixMatch" in text and "Warnings" not in text and "pseudo-labels of" not in text


@pytest.mark.parametrize(("view", "said"), [("squash", "squash"), (None, "center")])
def test_an_exported_model_says_the_view_that_its_predictions_saw(tmp_path, view, said):
    """Stored models from before recipes had one view say the centre crop."""
    from diffadapt.core.runs import Root, Run
    from diffadapt.core.sealed import Sealed
    from diffadapt.run.outputs import model_files

    digest = "0123456789ab" + "f" * 52
    folder = tmp_path / "fit"
    folder.mkdir()
    own = {"crop_mode": "center", "crop_pct": 0.875}
    stored = {
        "architecture": "cifar_resnet8",
        "label_names": ["a", "b"],
        "pretrained_cfg": own,
        "diffadapt": {},
    }
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "README.md").write_text("stored")
    (folder / "model.safetensors").write_bytes(b"weights")
    root = Root(str(tmp_path / "root"))
    root.store.prepare()
    path = f"uda/dann-{digest[:12]}"
    Sealed(root.store, path).commit(digest, str(folder))
    made = manifest()
    made["nodes"]["dann"]["shards"] = [["all-0", digest, 1, path]]
    made["config"]["backbone"] |= {"crop_mode": view} if view else {}
    files = dict(model_files(Run(root, "toy-1"), made, "dann"))
    assert json.loads(files["config.json"]) == {**stored, "pretrained_cfg": {**own, "crop_mode": said}}
    assert files["model.safetensors"] == b"weights"
    if view is None:
        assert files["config.json"] == (folder / "config.json").read_bytes()


def test_the_models_card_tells_its_own_steps_and_stamps_an_oracle(tmp_path):
    from diffadapt.run.outputs import model_card

    config = {
        "architecture": "cifar_resnet8",
        "label_names": ["zero", "one"],
        "diffadapt": {"selection": "last", "stage1": {"method": "dann"}},
    }
    rows = scores(seeds=(0, 1, 2))
    run = run_folder(tmp_path, manifest(), rows)
    card = model_card(run, manifest(), "dann_fixmatch", config)
    for words in (
        "DANN \\+ FixMatch: top-1 accuracy on the target, % | 79.6",
        "CLIP zero-shot: top-1",
        "embedded:glyphs",
        "toy",
        "served for scores alone",
        "stage1: method | dann",
    ):
        assert words in card, words
    assert "Oracle" not in card and "FixMatch" not in model_card(run, manifest(), "dann", config)
    oracle = model_card(run, manifest(select="oracle"), "dann_fixmatch", config)
    assert "**Oracle: the epoch was chosen on labels" in oracle and "served for scores alone" not in oracle
    unlabelled = model_card(run_folder(tmp_path / "b", manifest(), []), manifest(), "dann", config)
    assert "im (label-free" in unlabelled.replace("\\", "") and "0.9" in unlabelled


# -- CLIP as the only teacher
TAUGHT = "CLIP zero-shot + FixMatch"


def taught() -> dict:
    """The run with stage 2 from CLIP's pseudo-labels as a control of its last step."""
    made = manifest()
    made["nodes"] |= {
        "split_zero_shot": node("split", ["zero_shot"], name="clip-split"),
        "zero_shot_fixmatch": fit("ssl", "fixmatch", "target", "split_zero_shot", name="taught"),
        "taught_on_target": node("logits", ["target", "zero_shot_fixmatch"], name="taught-logits"),
    }
    role = {
        "kind": "clip_taught",
        "partner": "DANN + FixMatch",
        "otherwise": "this run does not show that a source adds anything to CLIP's pseudo-labels",
    }
    row = {**made["rows"][0], "name": TAUGHT, "members": ["taught_on_target"], "control": True, "role": role}
    made["rows"].append(row)
    return made


def test_clip_as_the_only_teacher_is_a_control_of_the_result():
    rows = scores(controls={DIRECT: 79.0, TAUGHT: 85.0})
    text = text_of(rows, taught())
    assert "DANN + FixMatch is 5.0 points below the control CLIP zero-shot + FixMatch" in text
    assert "does not show that a source adds anything" in text
    steps = ladder(taught())
    assert steps.clip_taught == (TAUGHT,) and steps.result == "DANN + FixMatch"
    shown = tiles(summarise(rows), taught(), None)
    (tile,) = [t for t in shown if TAUGHT in t["name"]]
    assert tile["name"].startswith("control: ") and tile["step"].startswith("+45.0 to CLIP zero-shot")


def test_what_each_step_took_stands_beside_its_score(tmp_path):
    made = taught()
    ours = {d for n in made["nodes"].values() for _, d, _, _ in n["shards"]}
    known = {d: Measured(d, "", "", "", 1, 36.0, "cpu") for d in ours if d != "plain0"}
    took = device_hours(made, known)
    by = {entry["row"]: entry for entry in took["rows"]}
    # target and the images that a row trains on count with its fits, each once
    assert by["CLIP zero-shot"]["kinds"] == {"images": 0.01, "zero-shot": 0.01}
    assert by[TAUGHT]["kinds"]["ssl"] == 0.01 and "synth" not in by[TAUGHT]["kinds"]
    assert by["DANN + FixMatch"]["kinds"]["synth"] == 0.01 and by["DANN + FixMatch"]["unknown"] == 0
    assert by["DANN, unfiltered"]["unknown"] == 1
    run = fake_run(tmp_path, scores=scores(controls={DIRECT: 79.0, TAUGHT: 85.0}), manifest=made)
    assert "What each step took" not in render(run)
    run.write("device_hours.json", json.dumps(took).encode())
    page = render(run)
    start = page.index("Should images be generated at all?")
    table = re.sub(r"<[^>]+>", " ", page[start : page.index("</section>", start)]).split()
    assert "making images" in " ".join(table)
    found = " ".join(table)
    assert f"{TAUGHT} 85.0" in found and found.index(TAUGHT) < found.index("Synthetic only 60.0")
    assert "No row has CLIP as the only teacher" not in found
