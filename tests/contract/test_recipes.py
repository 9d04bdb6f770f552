"""Every recipe under pipelines/: loads, plans without weights or data, with the published counts; what a
change forks."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from diffadapt.core.config import from_dict, override, to_dict
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.leniency import lenient
from diffadapt.core.recipes import load, recipes
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.data.config import CORRUPTIONS
from diffadapt.systems.adapt_anything.benchmark import SYNTHETIC, Benchmark
from diffadapt.systems.adapt_anything.recipe import AdaptAnything
from diffadapt.systems.zodi.detection import ZodiDetection
from diffadapt.systems.zodi.recipe import Zodi
from tests.golden.digests import read

NAMES = sorted(recipes())


@functools.cache
def plans(name: str, **changes) -> tuple[dict[str, NodePlan], tuple[str, ...]]:
    """The lenient plan of a recipe with overrides (dots as __), and what is not at hand."""
    with lenient() as notes:
        recipe = override(load(name), {k.replace("__", "."): v for k, v in changes.items()})
        return recipe.pipeline().plan(Store("memory://recipes")), tuple(notes)


@pytest.fixture(scope="module")
def golden():
    return read()


def digests(plan: NodePlan) -> list[str]:
    return [p.digest for p in plan.shards]


def test_the_tree_holds_the_published_experiments():
    assert {
        "quickstart",
        "sda/imagenet_c/resnet50",
        "sda/imagenet_w/swin_b",
        "sda/generators",
        "sda/generators/digits",
    } <= set(NAMES)
    assert {
        "adapt_anything",
        "adapt_anything/digits",
        "adapt_anything/office31/amazon_webcam",
        "adapt_anything/domainnet/all",
        "adapt_anything/visda2017/synthetic",
    } <= set(NAMES)
    assert len(NAMES) > 120


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name, golden, monkeypatch):
    """What is planned of a recipe is held by tests/golden, shard by shard."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    entry, recipe = recipes()[name], load(name)
    assert 20 < len(entry.summary) < 160 and entry.summary.endswith(".")
    assert recipe == load(name) and from_dict(type(recipe), to_dict(recipe)) == recipe
    assert has_data(recipe) <= (name in golden["planned"])
    if name not in golden["planned"]:
        said = golden["refused"][name]
        assert "\n" not in said and 20 < len(said) < 400 and said.rstrip().endswith(".")
        if isinstance(recipe, Benchmark) and recipe.benchmark:  # domains of one's own have no list
            assert f"{name} (no images)" in golden["planned"]


def has_data(recipe) -> bool:
    """Whether a recipe names its data; those of a user's folders and of benchmarks leave that to the command
    line."""
    if isinstance(recipe, Benchmark):
        return bool(recipe.data.path)
    if isinstance(recipe, AdaptAnything):
        return bool(recipe.target.path)
    if isinstance(recipe, (Zodi, ZodiDetection)):
        return bool(recipe.source.path)
    data = getattr(recipe, "data", None) or getattr(getattr(recipe, "target", None), "data", None)
    return data is None or bool(data.path)


def test_imagenet_c_has_the_published_counts():
    found, notes = plans("sda/imagenet_c/resnet50")
    assert found["synth"].items == found["aligned"].items == 50_000
    assert found["target"].items == found["projected"].items == found["source_on_target"].items == 15 * 50_000
    assert {p.shard.params["group"] for p in found["target"].shards} == {f"{c}/5" for c in CORRUPTIONS}
    assert sum(p.shard.params["group"] == "fog/5" for p in found["projected"].shards) == 100
    assert len(found["tent"].shards) == 15 and found["finetuned"].items == 50_000
    assert any("adm-256-uncond" in n.lower() or "ADM" in n for n in notes) and any(
        "ImageNet" in n or "imagenet-c" in n for n in notes
    )


@pytest.mark.parametrize(("condition", "images"), [("", 106), ("/fog", 100), ("/rain", 100), ("/snow", 100)])
def test_cityscapes_to_acdc_has_the_published_counts(condition, images):
    found, notes = plans(
        f"zodi/cityscapes_acdc{condition}",
        source__path="absent",
        source_test__path="absent",
        target__path="absent",
    )
    assert found["source"].items == found["transferred"].items == 2975 and found["source_test"].items == 500
    assert (
        found["target"].items == found["zodi_on_target"].items == images
        and found["transferred_test"].items == 100
    )
    assert found["source_only"].items == 2975 and any("Cityscapes" in n or "absent" in n for n in notes)


def test_imagenet_w_is_one_group():
    found, _ = plans("sda/imagenet_w/resnet50")
    assert found["target"].items == 50_000 and {p.shard.params["group"] for p in found["target"].shards} == {
        "watermark/5"
    }


@pytest.mark.parametrize(
    ("count", "images"), [("1k", 1_000), ("10k", 10_000), ("50k", 50_000), ("100k", 100_000)]
)
@pytest.mark.parametrize("model", ["resnet50", "swin_t", "convnext_t"])
def test_the_number_of_images_ablation(count, images, model):
    found, _ = plans(f"sda/ablations/images_{count}_{model}")
    assert found["synth"].items == found["aligned"].items == images


def test_the_images_ablation_shares_its_shards():
    made = {
        n: set(digests(plans(f"sda/ablations/images_{n}_resnet50")[0]["aligned"]))
        for n in ("1k", "10k", "50k", "100k")
    }
    assert made["1k"] < made["10k"] < made["50k"] < made["100k"]
    of_models = [
        set(digests(plans(f"sda/ablations/images_50k_{m}")[0]["aligned"]))
        for m in ("resnet50", "swin_t", "convnext_t")
    ]
    assert of_models[0] == of_models[1] == of_models[2], "the synthetic set does not depend on the classifier"
    assert set(digests(plans("sda/imagenet_c/resnet50")[0]["projected"])) == set(
        digests(plans("sda/imagenet_c/swin_b")[0]["projected"])
    )


@pytest.mark.parametrize("model", ["resnet50", "swin_t"])
def test_guidance_forks_the_synthetic_images_and_not_the_projections(model):
    base, forked = (
        plans(f"sda/ablations/guidance_1_{model}")[0],
        plans(f"sda/ablations/guidance_1_5_{model}")[0],
    )
    for name in ("target", "projected", "source_on_target", "source_on_projected"):
        assert digests(base[name]) == digests(forked[name])
    for name in ("synth", "aligned", "finetuned", "finetuned_on_projected"):
        assert not set(digests(base[name])) & set(digests(forked[name]))
    assert digests(base["synth"]) == digests(plans("sda/imagenet_c/resnet50")[0]["synth"])


EXECUTION = {
    "synth__batch_size": 7,
    "align__batch_size": 3,
    "classifier__batch_size": 5,
    "finetune__micro_batch": 4,
    "execution__runner": "local",
    "execution__actors": 3,
    "synth__compile": True,
    "memo__chunk": 2,
}


def test_execution_settings_change_no_digest():
    base, other = plans("quickstart")[0], plans("quickstart", **EXECUTION)[0]
    assert {n: digests(p) for n, p in base.items()} == {n: digests(p) for n, p in other.items()}


@pytest.mark.parametrize(
    ("change", "forked", "same"),
    [
        (
            {"align__scale": 1.0},
            {"projected", "aligned", "finetuned", "figures"},
            {"synth", "diffpure", "classifier", "tent", "nonaligned"},
        ),
        (
            {"finetune__lr": 1e-5},
            {"finetuned", "nonaligned", "real"},
            {"projected", "aligned", "classifier", "synth"},
        ),
        (
            {"classifier_fit__epochs": 3},
            {"classifier", "source_on_target", "finetuned"},
            {"projected", "aligned", "synth", "target"},
        ),
        ({"tent__lr": 0.5}, {"tent"}, {"memo", "projected", "classifier", "figures"}),
        ({"memo__limit": 20}, {"memo"}, {"tent", "projected"}),
        ({"target__severities": (5, 3)}, set(), {"synth", "aligned", "finetuned"}),
        ({"seed": 1}, {"synth", "target", "projected", "aligned"}, set()),
        (
            {"source__part": (0.0, 0.5)},
            {"classifier", "finetuned", "real"},
            {"target", "projected", "synth", "aligned"},
        ),
        ({"controls": ()}, set(), {"finetuned", "projected", "tent"}),
        ({"synth__guidance": 1}, set(), {"synth", "finetuned"}),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) and x else "",
)
def test_what_a_change_forks(change, forked, same):
    base, other = plans("quickstart")[0], plans("quickstart", **change)[0]
    for name in forked & set(base):
        assert not set(digests(base[name])) & set(digests(other[name])), name
    for name in same:
        assert digests(base[name]) == digests(other[name]), name


def test_planning_twice_gives_the_same_digests():
    assert {n: digests(p) for n, p in plans.__wrapped__("quickstart")[0].items()} == {
        n: digests(p) for n, p in plans("quickstart")[0].items()
    }


def test_more_severities_keep_the_shards_of_the_first():
    base, more = plans("quickstart")[0], plans("quickstart", target__severities=(5, 3))[0]
    for name in ("target", "projected", "source_on_target"):
        assert set(digests(base[name])) < set(digests(more[name]))
        assert more[name].items == 2 * base[name].items


@pytest.mark.parametrize("name", ["office31", "officehome", "imageclef", "visda2017"])
def test_a_benchmark_has_the_published_counts_and_a_row_for_each_method_transfer_and_seed(name):
    recipe = load(f"adapt_anything/{name}/all")
    found, notes = plans(f"adapt_anything/{name}/all", data__path="absent")
    known, pairs = recipe.known, recipe.pairs()
    items = {n: p.items for n, p in found.items() if not p.stage.stored}
    for domain in {d for pair in pairs for d in pair}:
        assert known.counts[domain] in items.values(), domain
    with lenient():
        rows = override(recipe, {"data.path": "absent"}).pipeline().rows
    trained = [r for r in rows if r.name != "CLIP zero-shot"]
    assert len(trained) == len(recipe.methods) * len(pairs) * len(recipe.seeds)
    assert len(rows) == len(trained) + len(pairs), "CLIP zero-shot once a transfer"
    assert {r.group for r in rows} == {"-".join(p) for p in pairs}
    assert {r.seed for r in trained} == set(recipe.seeds) == {0, 1, 2}
    assert any("not a folder" in n for n in notes)


def test_each_transfer_of_a_benchmark_has_its_recipe_and_shares_its_work():
    every = load("adapt_anything/office31/all")
    assert {n.rpartition("/")[2] for n in NAMES if n.startswith("adapt_anything/office31/")} == {
        "all",
        "both",
        "frozen",
        "synthetic",
        *("_".join(p) for p in every.pairs()),
        *(f"{SYNTHETIC}_{d}" for d in every.known.domains),
    }
    one = plans("adapt_anything/office31/webcam_dslr", data__path="absent")[0]
    of_all = {
        d for p in plans("adapt_anything/office31/all", data__path="absent")[0].values() for d in digests(p)
    }
    trained = {d for p in one.values() if p.stage.kind in ("uda", "ssl") for d in digests(p)}
    assert trained and trained <= of_all


def test_synthetic_recipes_of_a_benchmark_share_their_images():
    one, other = (
        plans(f"adapt_anything/office31/synthetic_{d}", data__path="absent")[0] for d in ("amazon", "webcam")
    )
    prompts = {n for n, p in one.items() if p.stage.kind == "prompts"}
    assert prompts and all(p.items for p in one.values())
    assert not any(
        p.stage.kind == "prompts"
        for p in plans("adapt_anything/office31/amazon_webcam", data__path="absent")[0].values()
    )
    assert {p.stage.kind for p in one.values()} == {p.stage.kind for p in other.values()}


ADAPTATION_EXECUTION = {
    "generator__batch_size": 7,
    "backbone__batch_size": 5,
    "clip__batch_size": 3,
    "uda__checkpoint_every": 2,
    "ssl__checkpoint_every": 2,
    "execution__runner": "ray",
    "execution__actors": 3,
    "execution__train_workers": 2,
    "execution__threads": 2,
}


def test_execution_settings_change_no_digest_of_adapt_anything():
    base, other = plans("adapt_anything/digits")[0], plans("adapt_anything/digits", **ADAPTATION_EXECUTION)[0]
    assert {n: digests(p) for n, p in base.items()} == {n: digests(p) for n, p in other.items()}


@pytest.mark.parametrize(
    ("change", "forked", "same"),
    [
        (
            {"split__fraction": 0.9},
            {"split_dann", "dann_fixmatch"},
            {"prompts", "synth", "filter", "source_only", "dann", "dann_on_target", "zero_shot"},
        ),
        (
            {"ssl__epochs": 7},
            {"dann_fixmatch", "source_only_fixmatch"},
            {"synth", "dann", "split_dann", "split_source_only"},
        ),
        ({"ssl__method": "mixmatch"}, set(), {"synth", "source_only", "dann", "split_dann"}),
        (
            {"uda__method": "mcc"},
            set(),
            {"synth", "filter", "source_only", "split_source_only", "source_only_fixmatch"},
        ),
        ({"uda__sdat": 0.02}, {"dann", "dann_fixmatch"}, {"source_only", "source_only_fixmatch", "synth"}),
        (
            {"generator__guidance": 2.0},
            {"synth", "filter", "source_only", "dann_fixmatch"},
            {"prompts", "target", "zero_shot"},
        ),
        (
            {"generator__images_per_class": 75},
            {"filter", "source_only", "dann"},
            {"prompts", "target", "zero_shot"},
        ),
        (
            {"prompts__template": "a drawing of {category}"},
            {"prompts", "synth", "dann"},
            {"target", "zero_shot"},
        ),
        (
            {"filters__near_duplicates": 3},
            {"filter", "source_only", "dann"},
            {"prompts", "synth", "target", "zero_shot"},
        ),
        (
            {"backbone__mean": (0.4,)},
            {"source_only", "dann", "dann_on_target"},
            {"prompts", "synth", "filter", "zero_shot"},
        ),
        (
            {"clip__templates": ("the digit {category}",)},
            {"zero_shot"},
            {"synth", "filter", "dann", "dann_fixmatch"},
        ),
        ({"select__rule": "im"}, {"dann", "dann_fixmatch"}, {"synth", "filter", "zero_shot"}),
        ({"controls": (), "figures": False}, set(), {"synth", "filter", "dann", "dann_fixmatch"}),
        ({"seed": 1}, {"synth", "dann"}, {"target", "prompts"}),  # a template has no chance in it
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) and x else "",
)
def test_what_a_change_of_adapt_anything_forks(change, forked, same):
    fixed = {"seeds": (0,), "uda__method": "dann", "prompts__source": "template"}
    base, other = (
        plans("adapt_anything/digits", **fixed)[0],
        plans("adapt_anything/digits", **{**fixed, **change})[0],
    )
    assert forked | same <= set(base) and forked <= set(other)
    for name in forked:
        assert not set(digests(base[name])) & set(digests(other[name])), name
    for name in same:
        assert digests(base[name]) == digests(other[name]), name


def test_more_seeds_and_more_images_keep_what_is_there():
    few, many = (
        plans("adapt_anything/digits", seeds=(0, 1))[0],
        plans("adapt_anything/digits", seeds=(0, 1, 2))[0],
    )
    for name in set(few) - {"figures", "validators"}:
        assert digests(few[name]) == digests(many[name]), name
    assert {n for n in many if n.endswith(".s2")} and len(
        {digests(many[f"mcc.s{i}"])[0] for i in range(3)}
    ) == 3
    base, more = (
        plans("adapt_anything/digits")[0]["synth"],
        plans("adapt_anything/digits", generator__images_per_class=75)[0]["synth"],
    )
    assert set(digests(base)) < set(digests(more)) and (base.items, more.items) == (500, 750)


def test_a_folder_of_images_and_a_list_of_classes_are_enough_to_plan(tmp_path):
    from diffadapt.data.image import encode_png

    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode_png(np.full((8, 8, 3), i, np.uint8)))
    (tmp_path / "classes.txt").write_text("mug\nlaptop\n")
    found, _ = plans(
        "adapt_anything", target__path=str(tmp_path / "photos"), classes=str(tmp_path / "classes.txt")
    )
    recipe = load("adapt_anything")
    assert found["target"].items == 3 and found["synth"].items == 2 * recipe.generator.images_per_class
    assert {"prompts", "source_only", "mcc", "mcc_fixmatch", "validators"} <= set(found)


def test_a_recipe_from_a_file_is_the_recipe_with_its_overrides(tmp_path):
    import json

    file = tmp_path / "recommended.json"
    file.write_text(
        json.dumps(
            {
                "recipe": "adapt_anything/digits",
                "overrides": {"generator.guidance": 1.5, "seeds": [0]},
                "why": "best",
            }
        )
    )
    assert load(str(file)) == override(
        load("adapt_anything/digits"), {"generator.guidance": 1.5, "seeds": (0,)}
    )
    for text, said in (
        ("{", "is no recipe"),
        ('{"recipe": "x.json", "overrides": {}}', "is no recipe"),
        ('{"recipe": "quickstart", "overrides": {"synth.guidanc": 1}}', "Did you mean"),
    ):
        file.write_text(text)
        with pytest.raises(DiffadaptError, match=said):
            load(str(file))
    with pytest.raises(DiffadaptError, match="cannot be read"):
        load(str(tmp_path / "absent.json"))


def test_a_recipe_file_may_define_its_own_class(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom diffadapt.core.recipes"
        " import load\nfrom diffadapt.systems.sda.recipe import SDA\n\n\n@dataclass(frozen=True)\nclass"
        ' Mine(SDA):\n    extra: int = 3\n\n\ndef recipe() -> Mine:\n    """The quickstart with a field of'
        ' its own."""\n    return Mine(**vars(load("quickstart")))\n'
    )
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(tmp_path))
    from diffadapt.commands.options import RootOption, parse_recipe

    assert parse_recipe(RootOption, ["own", "--extra", "5"], "run")[1].extra == 5
    ray = pytest.importorskip("ray")
    from diffadapt.orchestrate.connection import _send_recipe_files

    _send_recipe_files()
    sent = ray.cloudpickle.dumps(load("own"))
    assert b"extra" in sent and len(sent) > len(ray.cloudpickle.dumps(load("quickstart"))), (
        "the class travels with the value"
    )
