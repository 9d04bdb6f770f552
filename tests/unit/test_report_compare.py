"""Comparing runs, and the published tables as data."""

from __future__ import annotations

import pytest
from reportkit import fake_manifest, fake_run, fake_scores

from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.runs import Root, Run
from diffadapt.report.compare import compare, compare_html, comparison
from diffadapt.systems.sda.published import benchmarks, match, models, published


@pytest.fixture
def two(tmp_path):
    a = fake_run(tmp_path, "a-1")
    manifest = fake_manifest(
        config={
            "seed": 0,
            "target": {"kind": "corruptions", "severities": [3, 5]},
            "synth": {"guidance": 1.5},
            "classifier": {"name": "train", "arch": "cifar_resnet8"},
        }
    )
    manifest["versions"]["torch"] = "2.6.0"
    manifest["nodes"]["aligned"]["revisions"]["embedded:digits-unet"] = "sha256:ffff"
    manifest["nodes"]["extra"] = manifest["nodes"]["synthetic"]
    b = fake_run(
        tmp_path,
        "b-2",
        scores=fake_scores("b-2", main={"Source": 43.6, "SDA": 70.0}, controls={}),
        manifest=manifest,
    )
    return a, b


def test_means_and_differences_stand_in_columns(two):
    found = comparison(two)
    rows = {r.method: r for r in found.rows}
    assert rows["Source"].means == ["43.5", "43.5"] and rows["Source"].deltas == ["+0.0"]
    assert rows["SDA"].means == ["66.4", "69.9"] and rows["SDA"].deltas == ["+3.5"]
    assert rows["DDA"].means[1] == "-" and rows["DDA"].deltas == [""]


def test_exactly_the_differing_fields_are_named(two):
    found = comparison(two)
    assert dict(found.fields) == {
        "target.severities": ["5", "3, 5"],
        "synth.guidance": ["1.0", "1.5"],
        "nodes.extra": ["(absent)", "present"],
        "nodes.aligned.revisions.embedded:digits-unet": ["sha256:0123abcd", "sha256:ffff"],
    }
    assert found.versions == [("torch", ["2.15.0", "2.6.0"])]


def test_text_and_page_say_the_same(two):
    text, page = compare(two, width=100, colour=False), compare_html(two)
    for words in ("synth.guidance", "1.5", "2.6.0", "+3.5", "a-1", "b-2"):
        assert words in text and words in page, words
    assert text.isascii() and "<script" not in page and "http:" not in page and "https:" not in page


def test_different_images_are_marked(tmp_path):
    a = fake_run(tmp_path, "a-1")
    b = fake_run(tmp_path, "b-2", scores=fake_scores("b-2", images=100))
    c = fake_run(tmp_path, "c-3", scores=fake_scores("c-3", corruptions=("fog", "snow")))
    text = compare([a, b, c], colour=False)
    assert (
        "+0.0*" in text
        and "it is over what both have" in " ".join(text.split())
        and "* at a mean: not all images" in text
    )


def test_runs_that_differ_in_seed_only_get_a_spread(tmp_path):
    runs = [
        fake_run(
            tmp_path,
            f"s-{i}",
            scores=fake_scores(f"s-{i}", i, shift=float(i)),
            manifest=fake_manifest(seed=i),
        )
        for i in range(3)
    ]
    found = comparison(runs)
    assert {r.method: r.spread for r in found.rows}["SDA"] == "1.00" and any(
        "over these 3 seeds" in r for r in found.remarks
    )


def test_equal_runs_are_called_equal(tmp_path):
    runs = [fake_run(tmp_path, n) for n in ("a-1", "b-2")]
    assert comparison(runs).fields == [] and "No identity field differs" in compare(runs, colour=False)


def test_secrets_and_names_are_safe(tmp_path):
    runs = [
        fake_run(tmp_path, n, manifest=fake_manifest(config={"hub_token": t, "name": f"<script>{n}\x1b[31m"}))
        for n, t in (("a-1", "hunter2"), ("b-2", "hunter3"))
    ]
    text, page = compare(runs, colour=False), compare_html(runs)
    assert "hunter" not in text + page and "<script" not in page and "\x1b" not in text


def test_one_run_or_an_unfinished_run_is_a_user_error(tmp_path):
    run = fake_run(tmp_path)
    with pytest.raises(RecipeError, match="at least two"):
        compare([run])
    with pytest.raises(StoreError, match="no manifest"):
        compare([run, Run(Root(str(tmp_path)), "none")])


def test_the_main_tables_hold_the_paper_s_gains():
    """SDA minus DDA as the paper prints it in parentheses (Tables 1 and 2): an independent check of the
    copied digits."""
    printed = {
        "imagenet-c": {"ResNet-50": 2.8, "Swin-T": 2.5, "ConvNeXt-T": 2.8, "Swin-B": 2.9, "ConvNeXt-B": 2.5},
        "imagenet-w": {"ResNet-50": 1.9, "Swin-T": 1.4, "ConvNeXt-T": 1.5, "Swin-B": 2.3, "ConvNeXt-B": 2.0},
    }
    for benchmark, table in (("imagenet-c", "1"), ("imagenet-w", "2")):
        assert models(benchmark) == list(printed[benchmark])
        for model, gain in printed[benchmark].items():
            rows = {r.method: r.value for r in published(benchmark, model, table)}
            assert rows["SDA"] - rows["DDA"] == pytest.approx(gain, abs=0.01)


def test_the_ablations_agree_with_the_main_tables():
    for benchmark in benchmarks():
        main = "1" if benchmark == "imagenet-c" else "2"
        for model in ("ResNet-50", "Swin-T", "ConvNeXt-T"):
            value = {r.method: r.value for r in published(benchmark, model, main)}
            components, counts, guidance = (
                [r.value for r in published(benchmark, model, t)] for t in ("4", "5", "6")
            )
            assert (
                components[0] == counts[0] == value["DDA"]
                and components[2] == counts[3] == guidance[0] == value["SDA"]
            )


def test_tent_and_gaps():
    tent = {r.method: r.value for r in published("imagenet-c", "ConvNeXt-T", "8")}
    assert len(tent) == 14 and tent["Tent, batch 64, mixed classes, mixed types"] == 51.9
    assert "GDA" not in {r.method for r in published("imagenet-c", "Swin-B", "1")}
    assert published("imagenet-c", "ResNet-50", "1")[0].source == "SDA, Table 1"


def test_unknown_benchmarks_and_models_are_user_errors():
    with pytest.raises(RecipeError, match="imagenet-c"):
        published("imagenetc")
    with pytest.raises(RecipeError, match="Swin-T"):
        published("imagenet-c", "Swin-X")


@pytest.mark.parametrize(
    ("recipe", "config", "expected"),
    [
        (
            "sda/imagenet_c",
            {"target": {"kind": "imagenet-c"}, "classifier": {"name": "resnet50.tv_in1k"}},
            ("imagenet-c", "ResNet-50"),
        ),
        (
            "mine",
            {"target": {"kind": "imagenet-w"}, "classifier": {"name": "/w/swin_base_patch4_window7_224"}},
            ("imagenet-w", "Swin-B"),
        ),
        ("sda/imagenet_c_convnext_tiny", {}, ("imagenet-c", "ConvNeXt-T")),
        (
            "sda/imagenet_c",
            {"target": {"kind": "imagenet-c"}, "classifier": {"name": "wide_resnet50_2"}},
            ("imagenet-c", None),
        ),
        (
            "sda/imagenet_c",
            {"target": {"kind": "imagenet-c"}, "classifier": {"name": "convnextv2_tiny"}},
            ("imagenet-c", None),
        ),
        ("quickstart", {"target": {"kind": "corruptions"}, "classifier": {"name": "resnet50"}}, None),
    ],
)
def test_a_run_is_matched_to_a_published_table(recipe, config, expected):
    assert match(recipe, config) == expected
