"""Methods, numbers, weights and benchmarks of Adapt Anything that cannot work: found while planning, in one
sentence."""

from __future__ import annotations

import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from diffadapt.core.ranges import limits_of
from diffadapt.core.recipes import load
from tests.cli.adaptplace import AdaptPlace
from tests.cli.badinput import diffadapt


@pytest.mark.parametrize(
    "words, parts",
    [
        ("--uda.method dan", ["no UDA method 'dan'", "Did you mean 'dann'"]),
        ("--ssl.method fixmach", ["no semi-supervised method 'fixmach'", "Did you mean 'fixmatch'"]),
        ("--controls direkt", ["controls has no 'direkt'", "Did you mean 'direct'"]),
        ("--controls direct direct", ["controls has 'direct' twice"]),
        ("--uda.method cdtrans --uda.epochs 20", ["vision transformer", "'cifar_resnet8'", "deit_small"]),
        ("--uda.method cdtrans", ["pretrain_epochs = 10", "raise epochs"]),
        ("--uda.method mcd --uda.sdat 0.05", ["uda.sdat is 0.05", "mcd makes 6 updates"]),
        ("--uda.batch-size 1", ["uda.batch_size is 1", "batch normalisation", "2 or more"]),
        ("--ssl.batch-size 1", ["ssl.batch_size is 1", "at least two"]),
        ("--uda.batch-size 6 --execution.train-workers 4", ["uda.batch_size is 6", "4 workers"]),
        ("--uda.seed 3", ["uda.seed is 3", "--seeds 3"]),
        ("--seeds 0 0", ["seeds is [0, 0]", "each once"]),
        ("--seeds", ["seeds is []", "at least one"]),
        ("--seeds -1", ["seeds is -1", "must be 0 to"]),
        ("--seed -1", ["seed is -1", "must be 0 to"]),
        ("--select.rule dev", ["select.rule is 'dev'", "not trained on", "ensv"]),
        ("--backbone.frozen True", ["frozen backbone needs trained weights", "backbone.name is 'train'"]),
        ("--backbone.arch resnet5", ["no architecture 'resnet5'", "Did you mean"]),
        ("--backbone.arch None", ["backbone.arch is empty"]),
        ("--backbone.in-channels 3", ["backbone.mean has 1 values", "in_channels is 3"]),
        ("--generator.size 21", ["generator.size is 21", "multiple of 2", "20 or 22"]),
        ("--generator.safety-checker True", ["safety_checker is on", "brings none"]),
        ("--generator.negative-prompt blurry", ["acts through guidance", "off at 1"]),
        ("--prompts.prompts-per-class 100000000", ["prompts_per_class is 100000000", "ask for at most"]),
        ("--prompts.source file", ["prompts.file is empty"]),
        ("--prompts.source llm --prompts.llm.backend openai", ["endpoint is empty", "http://"]),
        (
            "--prompts.source llm --prompts.llm.backend openai --prompts.llm.endpoint localhost:8000",
            ["is not a URL"],
        ),
    ],
)
def test_settings_that_cannot_work(adapt: AdaptPlace, words: str, parts: list[str]) -> None:
    adapt.plan(*words.split()).sentence(*parts)


@pytest.mark.parametrize(
    "words",
    [
        "--select.rule oracel",
        "--generator.scheduler fast",
        "--split.rule best",
        "--backbone.in-channels 2",
        "--uda.methd dann",
    ],
)
def test_words_that_are_not_known_end_with_the_parser_s_message(adapt: AdaptPlace, words: str) -> None:
    result = adapt.plan(*words.split())
    assert (
        result.status == 2
        and "Traceback" not in result.text
        and words.split()[-1 if "methd" not in words else 0] in result.error
    )


def test_templates_and_prompt_files(adapt: AdaptPlace) -> None:
    adapt.plan("--prompts.source", "template", "--prompts.template", "a photo").sentence(
        "'a photo'", "{category}"
    )
    adapt.plan("--clip.weights", "embedded:glyphs-clip", "--clip.templates", "a photo").sentence(
        "clip.templates has 'a photo' without {category}"
    )
    adapt.plan("--filters.clip", "embedded:glyphs-clip", "--filters.clip-template", "a photo").sentence(
        "filters.clip_template", "{category}"
    )

    def file(*lines: str):
        return adapt.plan("--prompts.source", "file", "--prompts.file", adapt.text("prompts.csv", *lines))

    file("category,prompt", "zera,a zera").sentence("'zera'", "did you mean 'zero'", "class list")
    file("category,prompt", "zero,a zero").sentence("no prompts for the class 'one'")
    adapt.plan("--prompts.source", "file", "--prompts.file", adapt.folder / "nope.csv").sentence(
        "nope.csv", "cannot be read"
    )


def test_weights_of_another_kind(adapt: AdaptPlace) -> None:
    adapt.run(generator=adapt.flat).sentence("flat", "no model_index.json")
    adapt.run(generator=adapt.folder / "nope").sentence("No weights at", "nope")
    adapt.run(generator="no/such-model").sentence("no/such-model", "local hub cache")
    adapt.run(generator="embedded:glyps").sentence("no embedded weights 'glyps'", "glyphs")
    adapt.run(generator="embedded:digits-dit").sentence("DiTPipeline", "takes no prompt")
    adapt.run("--clip.weights", adapt.flat).sentence("flat", "no config.json", "no CLIP")
    adapt.run("--clip.weights", adapt.folder / "generator" / "text_encoder").sentence(
        "'clip_text_model' model, not a CLIP"
    )
    adapt.run("--clip.weights", "no/such-clip").sentence("no/such-clip", "local hub cache")
    adapt.run("--filters.clip", adapt.flat).sentence("flat", "no CLIP")
    adapt.run("--backbone.name", adapt.flat, "--backbone.arch", "None").sentence("no config.json")
    adapt.run("--backbone.name", "resnet5", "--backbone.arch", "None").sentence(
        "timm/resnet5", "local hub cache"
    )
    assert not (adapt.root / "store" / "prompts").exists(), "all of this is known before anything is made"


def test_a_plan_goes_on_without_weights_and_says_so(adapt: AdaptPlace) -> None:
    result = adapt.plan("--clip.weights", "no/such-clip")
    assert result.status == 0 and "no/such-clip" in result.text


def test_roots_that_cannot_be_written(adapt: AdaptPlace) -> None:
    adapt.run(root=adapt.text("file", "x")).sentence("is not a folder", "--root")
    adapt.run(root="/proc/nope").sentence("cannot be made", "--root")


@pytest.mark.parametrize("recipe", ["adapt_anything", "adapt_anything/office31/all", "adapt_anything/glyphs"])
def test_every_number_of_a_recipe_has_a_range(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, infinity and negative numbers are refused by name; means may be anything finite."""
    monkeypatch.delenv("DIFFADAPT_PIPELINES", raising=False)
    tried = 0
    for name, cls, value, count in numbers(load(recipe)):
        low = getattr(limits_of(cls).get(name.rpartition(".")[2]), "low", None)
        assert low is not None, f"{name} has no range"
        wrong = "nan" if isinstance(value, float) else str(int(low) - 1)
        if tried % 30 == 0:  # the ranges themselves are compared above
            diffadapt("plan", recipe, f"--{name.replace('_', '-')}", *[wrong] * count).sentence(
                name, "must be"
            )
        tried += 1
    assert tried > 20


def numbers(recipe, prefix: str = ""):
    """(name, class of the configuration, value, how many values it has) of every number with a default."""
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value):
            yield from numbers(value, f"{prefix}{f.name}.")
            continue
        first = value[0] if isinstance(value, tuple) and value else value
        if (
            isinstance(first, int | float)
            and not isinstance(first, bool)
            and "Literal" not in str(f.type)
            and f.name != "mean"
            and f"{prefix}{f.name}" not in ("uda.seed", "ssl.seed")
        ):
            yield f"{prefix}{f.name}", type(recipe), first, len(value) if isinstance(value, tuple) else 1


OFFICE = "adapt_anything/office31/all"


@pytest.mark.parametrize(
    "words, parts",
    [
        ("", ["no data", "--data"]),
        ("--data {folder}/nope", ["nope is not a folder", "Office-31"]),
        ("--data {folder}", ["has no folder", "unpack Office-31"]),
        (
            "--data {office} --transfers amazon-webcan",
            ["'amazon-webcan' is no transfer", "Did you mean 'webcam'"],
        ),
        ("--data {office} --transfers amazon", ["'amazon' is no transfer", "source-target"]),
        ("--data {office} --transfers dslr-dslr", ["'dslr-dslr'", "name two domains"]),
        ("--data {office} --transfers dslr-webcam dslr-webcam", ["transfers has 'dslr-webcam' twice"]),
        ("--data {office} --methods dan", ["methods has no 'dan'", "Did you mean 'dann'"]),
        ("--data {office} --methods dann dann", ["methods has 'dann' twice"]),
        ("--data {office} --methods", ["methods is empty"]),
        (
            "--data {office} --methods dann --ssl-methods fixmatch",
            ["ssl_after is 'cdan'", "not among the methods"],
        ),
        ("--data {office} --ssl-methods fixmach", ["ssl_methods has no 'fixmach'"]),
        ("--data {office} --seeds 1 1", ["seeds is [1, 1]"]),
        ("--data {office} --benchmark office32", ["no benchmark 'office32'", "Did you mean 'office31'"]),
        ("--data {office} --uda.batch-size 1", ["uda.batch_size is 1"]),
    ],
)
def test_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, parts: list[str]) -> None:
    monkeypatch.delenv("DIFFADAPT_PIPELINES", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    office = tmp_path / "office"
    filled = words.format(folder=tmp_path, office=office).split()
    diffadapt("run", OFFICE, "--root", tmp_path / "root", *filled).sentence(*parts)


def test_a_benchmark_with_other_counts_than_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: AdaptPlace
) -> None:
    from diffadapt.data.benchmarks import BENCHMARKS

    for domain in ("amazon", "dslr", "webcam"):
        for name in BENCHMARKS["office31"].class_names:
            (tmp_path / domain / "images" / name).mkdir(parents=True)
            shutil.copy(adapt.flat / "0.png", tmp_path / domain / "images" / name)
    monkeypatch.delenv("DIFFADAPT_PIPELINES")
    words = (
        OFFICE,
        "--root",
        tmp_path / "root",
        "--data",
        tmp_path,
        "--backbone.name",
        "train",
        "--backbone.arch",
        "cifar_resnet8",
    )
    diffadapt("run", *words).sentence("31", "Office-31", "partial")
    assert diffadapt("plan", *words, "--partial", "True").status == 0
