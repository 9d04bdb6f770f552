"""What a report of SDA says beside its scores: the paper's figures of all its tables, and what fine-tuning
cost. Numbers are invented."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from diffadapt.core.ledger import Measured, _write
from diffadapt.core.manifest import run_config
from diffadapt.core.recipes import load
from diffadapt.core.record import Score
from diffadapt.core.runs import Root
from diffadapt.report.html import write_report
from diffadapt.report.sections import Page
from diffadapt.systems.sda.cost import measured
from diffadapt.systems.sda.published import published
from diffadapt.systems.sda.report import SdaReport
from tests.unit.reportkit import fake_manifest, fake_run

C, W = [f"c{i}/5" for i in range(15)], ["watermark/5"]


def page(place, name: str, values: dict[str, float], groups, recipe=None, images: int = 50_000) -> Page:
    """A finished run of a recipe, with the rows that its pipeline states."""
    recipe = recipe or load(name)
    rows = {r.name: r for r in recipe.pipeline().rows}
    scores = [
        Score("r", row, rows[row].control, g, g[:-2], 5, "top1", v, images, images, 0, note=rows[row].note,
              role=rows[row].role)
        for row, v in values.items()
        for g in groups
    ]  # fmt: skip
    stated = [asdict(r) for r in recipe.pipeline().rows]
    manifest = fake_manifest(name, config=run_config(recipe), rows=stated, system="sda", seed=0)
    run = fake_run(place, "r-0123abcd", scores, manifest)
    return Page(run, manifest, scores)


def figures(page: Page) -> dict[tuple[str, str], dict[str, str]]:
    return {(b["table"], b["method"]): b for b in SdaReport().data(page)["beside"]}


def test_figures_of_the_component_ablation_stand_beside_its_rows(tmp_path):
    rows = {"Source": 37.0, "DDA": 52.0, "SDA": 54.0, "SDA without alignment": 52.5}
    found = figures(page(tmp_path, "sda/ablations_w/components_resnet50", rows, W))
    alone = found["4", "DDA + conditional data synthesis"]
    assert (alone["published"], alone["here"], alone["difference"]) == ("52.3", "52.5", "+0.2")
    assert [k[0] for k in found] == ["2", "2", "2", "2", "4"], "a figure stands once"
    assert found["2", "DiffPure"]["here"] == "not run" and found["2", "Source"]["settings"] == "as published"
    assert found["2", "SDA"]["settings"].startswith(
        "other settings: align.guidance dda for dda-batch, align."
    )


@pytest.mark.parametrize(
    ("name", "table", "method", "value"),
    [
        ("sda/ablations_w/images_1k_swin_t", "5", "SDA, 1k images", "66.7"),
        ("sda/ablations_w/guidance_4_convnext_t", "6", "SDA, guidance 4.0", "68.4"),
        ("sda/ablations/images_100k_resnet50", "5", "SDA, 100k images", "32.6"),
    ],
)
def test_an_ablation_stands_beside_its_own_column(tmp_path, name, table, method, value):
    groups = W if "_w/" in name else C
    found = figures(page(tmp_path, name, {"Source": 1.0, "DDA": 2.0, "SDA": 3.0}, groups))
    own = found[table, method]
    assert own["published"] == value and not own["settings"].startswith("other settings: synth.")
    main = found["2" if "_w/" in name else "1", "SDA"]
    field = "guidance" if table == "6" else "images_per_class"
    assert main["settings"].startswith(f"other settings: synth.{field} "), (
        "Table 1's column has another value"
    )


def test_only_the_authors_settings_are_as_published(tmp_path):
    rows = {"Source": 18.0, "DDA": 29.0, "SDA": 32.0, "MEMO": 24.0, "DiffPure": 16.0, "Tent": 40.0}
    code = load("sda/imagenet_c/resnet50_code")
    found = figures(page(tmp_path / "a", "sda/imagenet_c/resnet50_code", rows, C, code))
    assert {m: found["1", m]["settings"] for m in ("Source", "DDA", "SDA", "MEMO", "GDA")} == {
        "Source": "as published", "DDA": "as published", "SDA": "as published",
        "MEMO": "published settings not known", "GDA": "",
    }  # fmt: skip
    tent = found["8", "Tent, batch 64, mixed classes, unmixed types"]
    assert (tent["published"], tent["here"]) == ("7.6", "40.0")
    short = replace(code, finetune=replace(code.finetune, epochs=15, milestones=(10,)))
    found = figures(page(tmp_path / "b", "sda/imagenet_c/resnet50_code", rows, C, short))
    assert found["1", "SDA"]["settings"] == "as published", "the paper's schedule"
    found = figures(page(tmp_path / "c", "sda/imagenet_c/resnet50_code", rows, C[:2], code, images=7))
    assert found["1", "SDA"]["settings"] == "other settings: 14 images for 750,000"


def test_table_8_has_the_methods_that_see_each_image_alone():
    assert [p.value for p in published("imagenet-c", "Swin-T", "8")][8:] == [
        33.1,
        29.5,
        24.8,
        42.2,
        40.0,
        42.5,
    ]
    assert published("imagenet-c", "Swin-T", "8")[0].source == "SDA, Table 8"


def run_with_costs(place, *entries: Measured):
    shards = {e.kind: [["all", e.digest, e.items, "p"]] for e in entries}
    node = fake_manifest()["nodes"]["aligned"]
    nodes = {name: {**node, "shards": s, "quarantined": []} for name, s in shards.items()}
    manifest = fake_manifest(nodes=nodes, system="sda")
    run = fake_run(place, manifest=manifest)
    _write(Root(str(place)).ledger, entries)
    return run, manifest


def entry(node: str, seconds: float, samples: int, **more) -> Measured:
    return Measured(f"{node}-digest", node, "l", "f", 50, seconds, "cpu", samples=samples, **more)


def test_the_cost_of_fine_tuning_stands_beside_table_3(tmp_path):
    run, manifest = run_with_costs(
        tmp_path, entry("classifier", 200.0, 4000), entry("finetuned", 20.0, 1000), entry("synth", 5.0, 0)
    )
    steps = {s["node"]: s for s in measured(run, manifest)}
    assert list(steps) == ["classifier", "synth", "finetuned"] and steps["synth"]["images"] == "50"
    assert (steps["finetuned"]["rate"], steps["finetuned"]["part"]) == ("50", "")
    write_report(run)
    html = run.read("report.html").decode()
    assert "Fine-tuning took 20 s for 1,000 images, 10.0 % of the 3 min 20 s that the source" in html
    assert "Table 3: Cost of pretraining" in html and "0.04" in html and "8 A100 80G" in html


def test_no_share_is_claimed_of_what_was_not_measured_whole(tmp_path):
    for i, (source, more) in enumerate(((None, {}), ("other", {}), ("cpu", {"resumed": True}))):
        entries = [entry("finetuned", 20.0, 1000, **more)]
        if source:
            entries.append(replace(entry("classifier", 200.0, 4000), device=source))
        run, manifest = run_with_costs(tmp_path / str(i), *entries)
        data = SdaReport().data(Page(run, manifest, []))
        assert data["cost"]["sentence"] == "" and data["cost"]["published"][0][:3] == (
            "ResNet-50",
            "6.9",
            "0.04",
        )
    run, manifest = run_with_costs(tmp_path / "none", entry("synth", 1.0, 0))
    assert SdaReport().data(Page(run, manifest, []))["cost"] is None
