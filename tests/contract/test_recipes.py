"""Every recipe under pipelines/: loads, plans without weights or data, with the published counts; what a change forks."""

from __future__ import annotations

import functools

import pytest

from diffadapt.core.config import from_dict, override, to_dict
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.leniency import lenient
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.data.config import CORRUPTIONS
from diffadapt.systems.recipes import load, recipes

NAMES = sorted(recipes())


@functools.cache
def plans(name: str, **changes) -> tuple[dict[str, NodePlan], tuple[str, ...]]:
    """The lenient plan of a recipe with overrides (dots as __), and what is not at hand."""
    with lenient() as notes:
        recipe = override(load(name), {k.replace("__", "."): v for k, v in changes.items()})
        return recipe.pipeline().plan(Store("memory://recipes")), tuple(notes)


def digests(plan: NodePlan) -> list[str]:
    return [p.digest for p in plan.shards]


def test_the_tree_holds_the_published_experiments():
    assert {"quickstart", "sda/imagenet_c/resnet50", "sda/imagenet_w/swin_b", "sda/generators", "sda/generators/digits"} <= set(NAMES)
    assert len(NAMES) > 40


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    entry, recipe = recipes()[name], load(name)
    assert 20 < len(entry.summary) < 160 and entry.summary.endswith(".")
    assert recipe == load(name) and from_dict(type(recipe), to_dict(recipe)) == recipe
    try:
        found, notes = plans(name)
    except DiffadaptError as error:
        assert "\n" not in str(error) and 20 < len(str(error)) < 400 and str(error).rstrip().endswith(".")
        assert not recipe_has_data(recipe)
        return
    assert all(len(note) < 400 and "\n" not in note for note in notes)
    for node in found.values():
        keys = [p.shard.key for p in node.shards]
        assert keys and len(set(keys)) == len(keys) and len(set(digests(node))) == len(keys)
        paths = [p.path for p in node.shards]
        assert all(paths) == node.stage.stored and (not node.stage.stored or len(set(paths)) == len(paths))


def recipe_has_data(recipe) -> bool:
    data = getattr(recipe, "data", None) or recipe.target.data
    return bool(data.path)


def test_imagenet_c_has_the_published_counts():
    found, notes = plans("sda/imagenet_c/resnet50")
    assert found["synth"].items == found["aligned"].items == 50_000
    assert found["target"].items == found["projected"].items == found["source_on_target"].items == 15 * 50_000
    assert {p.shard.params["group"] for p in found["target"].shards} == {f"{c}/5" for c in CORRUPTIONS}
    assert sum(p.shard.params["group"] == "fog/5" for p in found["projected"].shards) == 100
    assert len(found["tent"].shards) == 15 and found["finetuned"].items == 50_000
    assert any("adm-256-uncond" in n.lower() or "ADM" in n for n in notes) and any("ImageNet" in n or "imagenet-c" in n for n in notes)


def test_imagenet_w_is_one_group():
    found, _ = plans("sda/imagenet_w/resnet50")
    assert found["target"].items == 50_000 and {p.shard.params["group"] for p in found["target"].shards} == {"watermark/5"}


@pytest.mark.parametrize(("count", "images"), [("1k", 1_000), ("10k", 10_000), ("50k", 50_000), ("100k", 100_000)])
@pytest.mark.parametrize("model", ["resnet50", "swin_t", "convnext_t"])
def test_the_number_of_images_ablation(count, images, model):
    found, _ = plans(f"sda/ablations/images_{count}_{model}")
    assert found["synth"].items == found["aligned"].items == images


def test_the_images_ablation_shares_its_shards():
    made = {n: set(digests(plans(f"sda/ablations/images_{n}_resnet50")[0]["aligned"])) for n in ("1k", "10k", "50k", "100k")}
    assert made["1k"] < made["10k"] < made["50k"] < made["100k"]
    of_models = [set(digests(plans(f"sda/ablations/images_50k_{m}")[0]["aligned"])) for m in ("resnet50", "swin_t", "convnext_t")]
    assert of_models[0] == of_models[1] == of_models[2], "the synthetic set does not depend on the classifier"
    assert set(digests(plans("sda/imagenet_c/resnet50")[0]["projected"])) == set(digests(plans("sda/imagenet_c/swin_b")[0]["projected"]))


@pytest.mark.parametrize("model", ["resnet50", "swin_t"])
def test_guidance_forks_the_synthetic_images_and_not_the_projections(model):
    base, forked = plans(f"sda/ablations/guidance_1_{model}")[0], plans(f"sda/ablations/guidance_1_5_{model}")[0]
    for name in ("target", "projected", "source_on_target", "source_on_projected"):
        assert digests(base[name]) == digests(forked[name])
    for name in ("synth", "aligned", "finetuned", "finetuned_on_projected"):
        assert not set(digests(base[name])) & set(digests(forked[name]))
    assert digests(base["synth"]) == digests(plans("sda/imagenet_c/resnet50")[0]["synth"])


EXECUTION = {"synth__batch_size": 7, "align__batch_size": 3, "classifier__batch_size": 5, "finetune__micro_batch": 4, "execution__runner": "local", "execution__actors": 3, "synth__compile": True, "memo__chunk": 2}


def test_execution_settings_change_no_digest():
    base, other = plans("quickstart")[0], plans("quickstart", **EXECUTION)[0]
    assert {n: digests(p) for n, p in base.items()} == {n: digests(p) for n, p in other.items()}


@pytest.mark.parametrize(
    ("change", "forked", "same"),
    [
        ({"align__scale": 1.0}, {"projected", "aligned", "finetuned", "figures"}, {"synth", "diffpure", "classifier", "tent", "nonaligned"}),
        ({"finetune__lr": 1e-5}, {"finetuned", "nonaligned", "real"}, {"projected", "aligned", "classifier", "synth"}),
        ({"classifier_fit__epochs": 3}, {"classifier", "source_on_target", "finetuned"}, {"projected", "aligned", "synth", "target"}),
        ({"tent__lr": 0.5}, {"tent"}, {"memo", "projected", "classifier", "figures"}),
        ({"memo__limit": 20}, {"memo"}, {"tent", "projected"}),
        ({"target__severities": (5, 3)}, set(), {"synth", "aligned", "finetuned"}),
        ({"seed": 1}, {"synth", "target", "projected", "aligned"}, set()),
        ({"source__part": (0.0, 0.5)}, {"classifier", "finetuned", "real"}, {"target", "projected", "synth", "aligned"}),
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
    assert {n: digests(p) for n, p in plans.__wrapped__("quickstart")[0].items()} == {n: digests(p) for n, p in plans("quickstart")[0].items()}


def test_more_severities_keep_the_shards_of_the_first():
    base, more = plans("quickstart")[0], plans("quickstart", target__severities=(5, 3))[0]
    for name in ("target", "projected", "source_on_target"):
        assert set(digests(base[name])) < set(digests(more[name]))
        assert more[name].items == 2 * base[name].items
