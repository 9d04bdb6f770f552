"""Recipes, fields and values that do not exist or do not fit, and requests that the machine cannot meet."""

from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from diffadapt.core import recipes
from diffadapt.core.errors import DiffadaptError, RecipeError
from diffadapt.core.ranges import check_limits, limits_of
from tests.cli.badinput import Place, diffadapt, digit_folder
from tests.tiny import tiny_sda


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def nothing_stored(place: Place) -> bool:
    return not list(place.root.rglob("*.parquet"))


def test_unknown_recipes_and_commands(place: Place) -> None:
    place.run(recipe="smal").sentence("no recipe 'smal'", "did you mean 'small'", "diffadapt ls")
    place.run(recipe="sda/imagenet_c").sentence("holds several recipes", "sda/imagenet_c/resnet50")
    diffadapt("rnu").sentence("no command 'rnu'", "did you mean 'run'")
    diffadapt("run", "--seed", "1").sentence("The recipe comes first")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def recipe(:\n", ("cannot be loaded", "SyntaxError", "mend it or move it")),
        ("import no_such_module\n", ("cannot be loaded", "no_such_module")),
        ("def recipe():\n    return 1 / 0\n", ("cannot be built", "ZeroDivisionError", "mend that file")),
        ("def recipe():\n    return 'sda'\n", ("returns a str", "must return a recipe value")),
    ],
)
def test_broken_recipe_files(place: Place, text: str, parts: tuple[str, ...]) -> None:
    (place.folder / "recipes" / "broken.py").write_text(text)
    place.run(recipe="broken").sentence("broken", *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--algn.scale", "2"), ("--algn.scale", "--align.scale")),
        (("--align.scal", "2"), ("--align.scal", "--align.scale")),
        (("--align.scale", "much"), ("--align.scale", "much", "takes a number")),
        (("--align.batch-size", "1.5"), ("--align.batch-size", "1.5", "takes a whole number")),
        (("--align.guidance", "ddda"), ("ddda", "--align.guidance", "dda-batch", "Did you mean 'dda'?")),
        (("--target.data.channels", "2"), ("--target.data.channels", "takes one of 1, 3")),
        (("--seed",), ("seed",)),
        (
            ("--execution.runner", "slurm"),
            ("--execution.runner is 'slurm' but takes one of auto, local, ray",),
        ),
        (("--scale", "2"), ("no option --scale", "--align.scale", "--help-all")),
        (
            ("left",),
            (
                "takes one value and was given 2",
                "left",
            ),
        ),
        (("--align.scale", "1", "2"), ("--align.scale takes one value and was given 2",)),
    ],
)
def test_fields_and_values_that_cannot_be_parsed(
    place: Place, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    result = place.run(*words)
    result.sentence(*parts)
    assert len(result.text.strip().splitlines()) == 1 and "\u2500" not in result.text, "no parser's box"
    assert nothing_stored(place)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("align.start", "99", "must be 1 to 9 at respacing 10"),
        ("align.start", "0", "must be at least 1"),
        ("align.respacing", "5000", "must be 1 to 1000"),
        ("align.factor", "0", "must be at least 1"),
        ("align.scale", "nan", "must be a finite number"),
        ("align.scale", "inf", "must be a finite number"),
        ("align.batch-size", "0", "must be at least 1"),
        ("classifier.batch-size", "-1", "must be at least 1"),
        ("classifier.crop", "0", "must be at least 1"),
        ("classifier.std", "0", "must be at least"),
        ("synth.guidance", "nan", "must be a finite number"),
        ("synth.steps", "0", "must be 1 to 1000"),
        ("target.severities", "9", "must be 1 to 5"),
        ("target.corruptions", "contrst", "did you mean 'contrast'"),
        ("target.jpeg-quality", "900", "must be 0 to 100"),
        ("target.data.block", "0", "must be at least 1"),
        ("target.data.limit-per-class", "0", "must be at least 1"),
        ("methods", "ddaa", "did you mean 'dda'"),
        ("num-classes", "-3", "must not be negative"),
        ("finetune.lr", "-1", "must be at least 0"),
        ("finetune.batch-size", "0", "must be at least 1"),
        ("finetune.checkpoint-every", "0", "must be at least 1"),
        ("tent.batch-size", "0", "must be at least 1"),
        ("memo.views", "0", "must be at least 1"),
        ("execution.max-failed-fraction", "2", "must be 0 to 1"),
        ("execution.device", "cudda", "must be auto, cpu or cuda"),
        ("execution.actors", "-1", "must be at least 0"),
        ("seed", "9223372036854775808", "must be 0 to"),
    ],
)
def test_values_out_of_range_stop_plan_and_run_alike(place: Place, field: str, value: str, part: str) -> None:
    for command in ("plan", "run"):
        result = diffadapt(command, "small", "--root", place.root, f"--{field}", value)
        result.sentence(part, field.rpartition(".")[2].replace("-", "_").removesuffix("s"))
    assert nothing_stored(place)


def test_limits_name_real_fields_and_admit_every_recipe() -> None:
    for name in recipes.recipes():
        recipe = recipes.load(name)
        check_limits(recipe)
        for cls in classes(recipe):
            assert set(limits_of(cls)) <= {f.name for f in fields(cls)}, cls


UNLIMITED = {
    "ClassifierConfig.mean": "a channel's mean may be any finite number",
    "BackboneConfig.mean": "likewise",
    "SegmenterConfig.mean": "likewise",
    "DetectorConfig.mean": "likewise",
    "AlignConfig.scale": "of a gradient: a negative one turns it round",
    "GDAConfig.content_weight": "likewise",
    "GDAConfig.entropy_weight": "likewise",
    "GDAConfig.style_weight": "likewise",
    "FitConfig.momentum": "never had one; torch refuses a negative number when a fit starts",
    "TentConfig.momentum": "likewise",
    "Generators.seed": "never had one: seeds are hashed",
    "UdaConfig.seed": "likewise",
    "SslConfig.seed": "likewise",
    "FitConfig.seed": "likewise",
    "DiffusionFitConfig.seed": "likewise",
}
"""Numbers without a range, and why. What has been accepted stays so."""


def test_every_number_of_every_recipe_has_a_range() -> None:
    """... or is named above."""
    known = set().union(*(classes(recipes.load(name)) for name in recipes.recipes()))
    bare = set()
    for cls in known:
        types = typing.get_type_hints(cls)
        for name in {f.name for f in fields(cls)} - set(limits_of(cls)):
            if {int, float} & {types[name], *members(types[name])}:
                bare.add(f"{cls.__name__}.{name}")
    assert bare == set(UNLIMITED)


def classes(config: object) -> set[type]:
    """The classes of a tree of configurations."""
    values = (getattr(config, f.name) for f in fields(config))
    return {type(config)}.union(*(classes(v) for v in values if is_dataclass(v)))


def members(hint: object) -> set[object]:
    """What a union or a tuple is of, all the way down."""
    inner = typing.get_args(hint)
    return set(inner).union(*(members(i) for i in inner))


def test_limits_reach_nested_values() -> None:
    recipe = tiny_sda()
    with pytest.raises(RecipeError, match=r"diffpure\.gda\.views is 0"):
        check_limits(
            replace(recipe, diffpure=replace(recipe.diffpure, gda=replace(recipe.diffpure.gda, views=0)))
        )
    with pytest.raises(DiffadaptError, match=r"target\.severities is 6"):
        check_limits(replace(recipe, target=replace(recipe.target, severities=(1, 6))))


def test_settings_that_do_not_fit_together(place: Place) -> None:
    place.run("--source.path", "", "--classifier.name", "train").sentence(
        "'train'", "no labelled source images", "--source.path"
    )
    place.run("--target.data.path", "").sentence("no target images", "--target.data.path")
    place.run("--target.data.part", "0.5", "0.2").sentence("0 <= from < to <= 1")
    flat = digit_folder(place.folder / "flat", classes=1) / "0"
    place.run(*place.folder_words(flat)).sentence("no class folders", "--num-classes")


def test_no_gpu_on_this_machine(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place.run("--execution.device", "cuda").sentence("CUDA device", "--execution.device cpu")
    place.run("--execution.train-workers", "2").sentence(
        "local runner trains with one worker", "--execution.runner ray"
    )
    assert nothing_stored(place)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--execution.device", "cuda"), ("--execution.device cuda", "no GPUs", "--execution.device cpu")),
        pytest.param(
            ("--execution.device", "cpu", "--execution.actors", "5000"),
            ("--execution.actors 5000", "more than the cluster can host", "ask for fewer"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gpus", "pool"],
)
def test_a_request_that_a_cluster_cannot_meet(
    place: Place, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    if "cuda" in words:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    place.run("--execution.runner", "ray", *words).sentence(*parts)
    assert nothing_stored(place)


def test_a_cluster_that_does_not_answer(place: Place) -> None:
    place.run("--execution.runner", "ray", "--execution.address", "127.0.0.1:1").sentence(
        "No Ray cluster answers at 127.0.0.1:1", "ray start --head"
    )
