"""Benchmark recipes train each method as the published figures were made, and say where a run did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffadapt.core.config import to_dict
from diffadapt.core.leniency import lenient
from diffadapt.core.recipes import load
from diffadapt.methods.uda.config import METHODS, OWN, UdaConfig, settled
from diffadapt.report.sentences import unlike_published as said
from diffadapt.systems.adapt_anything.beside import unlike
from diffadapt.systems.adapt_anything.published import other_titles

# (epochs, steps, batch, rate) and what else the commands of Transfer-Learning-Library's scripts give.
SCRIPTS = {
    ("office31", "source_only"): ((5, 500, 32, 0.001), {"bottleneck": 0}),
    ("office31", "dann"): ((20, 1000, 32, 0.01), {"bottleneck": 256}),
    ("office31", "cdan"): ((20, 1000, 32, 0.01), {"randomized": False}),
    ("office31", "mcd"): ((20, 500, 32, 0.001), {"trade_off": 10, "entropy": 0.01}),
    ("office31", "mcc"): ((20, 500, 36, 0.005), {"bottleneck": 1024, "temperature": 2.5, "trade_off": 1}),
    ("officehome", "source_only"): ((5, 500, 32, 0.001), {}),
    ("officehome", "dann"): ((30, 1000, 32, 0.01), {}),
    ("officehome", "mcd"): ((20, 500, 32, 0.001), {"trade_off": 30}),
    ("officehome", "mcc"): ((30, 1000, 36, 0.005), {"bottleneck": 2048}),
    ("visda2017", "source_only"): ((20, 1000, 32, 0.001), {}),
    ("visda2017", "cdan"): ((30, 1000, 32, 0.01), {}),
    ("visda2017", "mcd"): ((20, 500, 32, 0.001), {"trade_off": 1}),
    ("visda2017", "mcc"): ((30, 1000, 36, 0.002), {"bottleneck": 256, "temperature": 3}),
    ("domainnet", "source_only"): ((20, 2500, 32, 0.01), {}),
    ("domainnet", "dann"): ((30, 2500, 32, 0.01), {"bottleneck": 1024}),
    ("domainnet", "cdan"): ((30, 2500, 32, 0.01), {"bottleneck": 1024, "randomized_width": 51200}),
    ("domainnet", "mcd"): ((30, 2500, 32, 0.001), {"trade_off": 120}),
    ("domainnet", "mcc"): ((30, 2500, 32, 0.005), {"bottleneck": 2048, "temperature": 2, "trade_off": 10}),
}


def recipe(benchmark: str, name: str = "all", **changes):
    made = load(f"adapt_anything/{benchmark}/{name}")
    return replace(made, data=replace(made.data, path="absent"), seeds=(0,), **changes)


@pytest.fixture(scope="module")
def graphs():
    """Benchmark -> the stages of its recipe."""
    with lenient():
        names = {benchmark for benchmark, _ in SCRIPTS}
        return {b: {n.name: n.stage for n in recipe(b).pipeline().nodes} for b in names}


@pytest.mark.parametrize(("benchmark", "method"), SCRIPTS)
def test_each_method_is_trained_as_the_scripts_train_it(graphs, benchmark, method):
    (epochs, steps, batch, lr), more = SCRIPTS[benchmark, method]
    stages = [s for n, s in graphs[benchmark].items() if n.startswith(f"{method}.") and n.endswith(".s0")]
    assert stages
    for stage in stages:
        config, mine = stage.config, stage.config.chosen
        assert (config.epochs, config.steps_per_epoch, config.batch_size, mine.lr) == (
            epochs,
            steps,
            batch,
            lr,
        )
        assert config.augment == ("center" if benchmark == "visda2017" else "uda")
        assert {name: getattr(mine, name) for name in more} == more
        assert stage.backbone.name == ("resnet50.tv_in1k" if "office" in benchmark else "resnet101.tv_in1k")


@pytest.mark.parametrize("benchmark", ["office31", "officehome", "visda2017", "domainnet", "imageclef"])
def test_clip_stands_in_every_table(benchmark):
    with lenient():
        assert any(r.name == "CLIP zero-shot" for r in recipe(benchmark).pipeline().rows)


def test_a_method_that_states_its_length_is_the_training_of_that_length():
    mine = METHODS["mcc"](epochs=3, batch_size=36)
    own = settled(UdaConfig(method="mcc", steps_per_epoch=7, mcc=mine))
    plain = UdaConfig(method="mcc", epochs=3, steps_per_epoch=7, batch_size=36)
    assert own == plain and own.identity() == plain.identity()
    assert not set(OWN) & set(plain.identity()["settings"]), "stored digests would change"
    other = UdaConfig(method="dann", steps_per_epoch=7, mcc=mine)
    assert settled(other) == other


def test_a_published_figure_is_compared_only_where_the_settings_agree():
    config = to_dict(recipe("officehome"))
    assert said(unlike(config, "MCD")) == said(unlike(config, "Source only")) == "as published"
    config["uda"]["mcd"].update(trade_off=10.0, epochs=2)
    assert said(unlike(config, "MCD")) == "other settings: epochs 2 for 20, trade_off 10.0 for 30.0"
    assert said(unlike(config, "DANN")) == "as published"
    config["backbone"]["frozen"] = True
    assert "frozen features" in said(unlike(config, "DANN"))
    assert "epochs 30 for 50" in (unlike(config, "CDTrans") or ())
    assert said(unlike(config, "SymNets")) == "published settings not known"
    domainnet = to_dict(recipe("domainnet"))
    assert said(unlike(domainnet, "MCC", ("real-sketch",))) == "as published"
    assert "transfers beyond" in said(unlike(domainnet, "MCC", ("real-sketch", "real-quickdraw")))
    config["uda"]["lr"] = 0.5
    assert "lr 0.5 for 0.01" in said(unlike(config, "DANN"))


def test_cdtrans_is_compared_with_the_scripts_of_its_authors():
    """They start from distilled DeiT, which the recipes do not have."""
    config = to_dict(recipe("cdtrans", "office31"))
    other = "backbone deit_small_patch16_224.fb_in1k for deit_small_distilled_patch16_224.fb_in1k"
    assert said(unlike(config, "CDTrans")) == f"other settings: {other}"
    assert said(unlike(config, "CDTrans baseline")) == f"other settings: {other}"
    assert other_titles(config) == [("CDTrans baseline", "Source only")]
    config["backbone"]["name"] = "deit_base_distilled_patch16_224.fb_in1k"
    assert said(unlike(config, "CDTrans")) == said(unlike(config, "CDTrans baseline")) == "as published"
    config["uda"].update(epochs=20, batch_size=32)
    assert said(unlike(config, "CDTrans")) == "other settings: batch_size 32 for 64, epochs 20 for 50"
    assert said(unlike(config, "CDTrans baseline")) == "other settings: batch_size 32 for 64"
    visda = to_dict(recipe("cdtrans", "visda2017"))
    assert len(unlike(visda, "CDTrans") or ()) == 1 and visda["uda"]["cdtrans"]["adapt_lr"] == 5e-5
    assert other_titles(to_dict(recipe("office31"))) == []


def test_real_and_synthetic_sources_stand_in_one_table():
    with lenient():
        pipeline = recipe("office31", "both").pipeline()
    groups = {}
    for row in pipeline.rows:
        groups.setdefault(row.name, set()).add(row.group)
    assert len(groups["MCC"]) == 6 and groups["MCC (synthetic source)"] == {
        "synthetic-amazon",
        "synthetic-dslr",
        "synthetic-webcam",
    }
    roles = {row.name: row.role for row in pipeline.rows}
    assert roles["MCC"].published == "MCC" and roles["MCC (synthetic source)"].published == ""
    assert roles["MCC (synthetic source)"].partner == "Source only (synthetic source)"
    with lenient():
        alone = recipe("office31", "synthetic").pipeline()
    assert "MCC" in {row.name for row in alone.rows}, "a table of one kind needs no note"
