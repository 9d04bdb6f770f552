"""Runs of Adapt Anything that meet damaged images, few images, odd class names, a collapse, and too little
memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.cli.adapting import NAMES
from tests.cli.adaptplace import AdaptPlace, noise
from tests.cli.badinput import diffadapt

ODD = (
    'desk lamp, "old"',
    ".hidden",
    "café crème",
    "漢字",
    "x" * 300,
    "it's; <b>&",
    "100 %",
    "a/b",
    "{category}",
)


def test_odd_class_names_and_few_images(adapt: AdaptPlace, tmp_path: Path) -> None:
    few = noise(tmp_path / "few images", 5)
    result = adapt.short(
        "--uda.method",
        "dann",
        "--ssl.method",
        "fixmatch",
        "--figures",
        "True",
        classes=adapt.text("odd.txt", *ODD),
        target=few,
    )
    assert result.status == 0, result.text
    page = (adapt.last() / "report.html").read_text(encoding="utf-8")
    assert "漢字" in page and "<b>&" not in page.replace("&lt;b&gt;&amp;", "")
    assert json.loads((adapt.last() / "model" / "config.json").read_text(encoding="utf-8"))[
        "label_names"
    ] == list(ODD)
    assert "The target has 5 images, fewer than a batch of 8" in result.text
    assert any("predicts only" in s or "is predicted as" in s for s in adapt.warnings())
    out = tmp_path / "new.parquet"
    assert (
        diffadapt("predict", few, "--root", adapt.root, "--out", out, "--execution.runner", "local").status
        == 0
    )
    assert set(pq.read_table(out).column("class").to_pylist()) <= set(ODD)
    export = ("export", "last", "--root", adapt.root, "--what")
    diffadapt(*export, "synth", "--out", tmp_path / "tree").sentence(
        "'.hidden' begins with a dot", "--layout flat"
    )
    assert not (tmp_path / "tree").exists(), "nothing is half written"
    assert diffadapt(*export, "synth", "--out", tmp_path / "flat", "--layout", "flat").status == 0
    assert (
        len((tmp_path / "flat" / "labels.csv").read_text(encoding="utf-8").splitlines()) == 2 * len(ODD) + 1
    )
    assert diffadapt(*export, "prompts", "--out", tmp_path / "prompts").status == 0
    diffadapt(*export, "sinth", "--out", tmp_path / "no").sentence("no stage 'sinth'", "Did you mean 'synth'")
    diffadapt(*export, "target", "--out", tmp_path / "no").sentence("your own files")
    diffadapt(*export, "dann_on_target", "--out", tmp_path / "no").sentence("holds predictions")


def test_one_image_is_enough(adapt: AdaptPlace, tmp_path: Path) -> None:
    result = adapt.short(
        "--uda.method", "dann", "--ssl.method", "mixmatch", target=noise(tmp_path / "one", 1)
    )
    assert result.status == 0 and "has 1 image, fewer than a batch" in result.text, result.text


def test_damaged_target_images(adapt: AdaptPlace, tmp_path: Path) -> None:
    damaged = noise(tmp_path / "damaged", 6)
    (damaged / "2.png").write_bytes(b"not an image")
    result = adapt.short(target=damaged)
    assert result.status == 2, "one of six is more than the allowed 5 %"
    result.sentence(
        "quarantined 1 of 6 items", "2.png is not a readable image", "--execution.max-failed-fraction"
    )
    result = adapt.short("--execution.max-failed-fraction", "0.2", target=damaged)
    assert result.status == 0 and "quarantine.jsonl" in result.text, result.text
    assert {item["key"] for item in adapt.failed()} == {"target/0/2.png"}
    assert pq.read_table(adapt.last() / "predictions.parquet").num_rows == 5
    for i in range(6):
        (damaged / f"{i}.png").write_bytes(b"not an image")
    adapt.short(target=damaged).sentence("source_only", "no readable target images", "target/0/0.png")
    kept = {p: p.read_bytes() for p in (adapt.root / "store" / "synth").rglob("*.parquet")}
    assert kept, "the synthetic images are kept"
    adapt.short(target=damaged).sentence("no readable target images")
    assert {p: p.read_bytes() for p in kept} == kept


def test_out_of_memory_halves_the_batch_of_the_generator(
    adapt: AdaptPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffadapt.diffusion.generators.text_to_image import TextToImage

    generate, sizes = TextToImage.generate, []

    def tight(self, prompts, seeds):
        sizes.append(len(prompts))
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(self, prompts, seeds)

    monkeypatch.setattr(TextToImage, "generate", tight)
    limit = 2
    assert adapt.short("--seed", "5").status == 0
    assert sizes[:3] == [8, 4, 2] and set(sizes[2:]) <= {2, 1}
    limit = 0
    adapt.short("--seed", "6").sentence("synth", "Even one image does not fit", "fp16/bf16")


def test_out_of_memory_in_training_names_what_to_lower(
    adapt: AdaptPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffadapt.models.adaptation import AdaptationNetwork
    from diffadapt.tasks.classification.semi_supervised import SslNetwork

    def full(self, *given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    words = ("--seeds", "3", "--ssl.method", "fixmatch")
    with monkeypatch.context() as patch:
        patch.setattr(AdaptationNetwork, "forward", full)
        adapt.short(*words).sentence("source_only", "out of memory", "lower the batch size", "kept")
    with monkeypatch.context() as patch:
        patch.setattr(SslNetwork, "forward", full)
        adapt.short(*words).sentence("source_only_fixmatch", "out of memory", "lower the batch size")
    diffadapt("predict", adapt.flat, "--root", adapt.root, "--out", adapt.folder / "x.parquet").sentence(
        "no manifest yet", "run its recipe again"
    )
    diffadapt("export", "last", "--root", adapt.root, "--out", adapt.folder / "x").sentence("no manifest yet")
    assert adapt.short(*words).status == 0


def test_no_confident_image(adapt: AdaptPlace) -> None:
    words = ("--ssl.method", "fixmatch", "--split.rule", "threshold")
    adapt.short(*words, "--split.threshold", "0.999").sentence(
        "source_only_fixmatch", "No image of the target is confident", "split.threshold"
    )
    assert adapt.short(*words, "--split.threshold", "0").status == 0
    assert any("Every image of the target is confident" in s for s in adapt.warnings())


@pytest.mark.parametrize("rule", ["ensv", "im", "mixval", "snd", "corrc", "bnm", "classami", "oracle"])
def test_every_selection_rule_runs(adapt: AdaptPlace, rule: str) -> None:
    result = adapt.short(
        "--uda.method",
        "dann",
        "--ssl.method",
        "pseudo_label",
        "--uda.epochs",
        "2",
        "--ssl.epochs",
        "2",
        "--select.rule",
        rule,
        target=adapt.folder / "target",
    )
    assert result.status == 0, result.text
    assert ("oracle" in result.output.lower()) == (rule == "oracle"), "an oracle is stamped on the table"
    assert json.loads((adapt.last() / "model" / "config.json").read_text())["diffadapt"]["selection"] == rule


def test_a_class_without_a_synthetic_image(adapt: AdaptPlace) -> None:
    shutil.copytree(adapt.folder / "target" / NAMES[0], adapt.folder / "real" / "zero", dirs_exist_ok=True)
    shutil.copytree(adapt.folder / "target" / NAMES[1], adapt.folder / "real" / "one", dirs_exist_ok=True)
    (adapt.folder / "real" / "two").mkdir(exist_ok=True)
    adapt.short("--source.path", adapt.folder / "real", classes=None).sentence(
        "The class folder", "two", "holds no images"
    )
