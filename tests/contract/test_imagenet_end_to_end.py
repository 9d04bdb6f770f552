"""The ImageNet-C recipe from beginning to end at a size of seconds: its own code path, tiny networks in the
published formats."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.cli import main  # noqa: E402
from diffadapt.core.runs import Root  # noqa: E402
from tests.contract.tinyweights import adm_folder, classifier_folder, dit_folder, imagenet_c  # noqa: E402

ROWS = {
    "Source",
    "DiffPure",
    "MEMO",
    "Tent",
    "GDA",
    "DDA",
    "SDA",
    "SDA without alignment",
    "Projection only",
    "Fine-tuned model on projected images",
}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("imagenet")
    return [
        "--classifier.name",
        classifier_folder(base / "classifier"),
        "--classifier.resize",
        "36",
        "--classifier.crop",
        "32",
        "--num-classes",
        "3",
        "--target.data.path",
        imagenet_c(base / "imagenet-c"),
        "--target.partial",
        "True",
        "--target.corruptions",
        "fog",
        "contrast",
        "--synth.weights",
        dit_folder(base / "dit"),
        "--synth.images-per-class",
        "2",
        "--synth.steps",
        "3",
        "--align.weights",
        adm_folder(base / "adm"),
        "--align.respacing",
        "6",
        "--align.start",
        "3",
        "--diffpure.respacing",
        "6",
        "--diffpure.start",
        "2",
        "--memo.views",
        "2",
        "--memo.limit",
        "2",
        "--finetune.epochs",
        "1",
        "--finetune.warmup-epochs",
        "0",
        "--finetune.batch-size",
        "4",
        "--methods",
        "source",
        "diffpure",
        "memo",
        "tent",
        "gda",
        "dda",
        "sda",
        "--execution.runner",
        "local",
        "--execution.device",
        "cpu",
    ]


@pytest.mark.parametrize(
    "recipe", ["sda/imagenet_c/resnet50", pytest.param("sda/imagenet_c/swin_t_code", marks=pytest.mark.slow)]
)
def test_from_folders_to_scores(options, tmp_path, capsys, recipe):
    assert main(["run", recipe, *options, "--root", str(tmp_path)]) == 0, capsys.readouterr().err
    run = Root(str(tmp_path)).run("last")
    scores = run.scores()
    assert {s.method for s in scores} >= ROWS
    assert {s.group for s in scores} == {"fog/5", "contrast/5"}
    assert all(
        s.of_images == 6 and s.images == (2 if s.images != 6 else 6) and 0 <= s.value <= 100 for s in scores
    )
    assert {s.images for s in scores if s.method == "MEMO"} == {2} and {
        s.images for s in scores if s.method == "SDA"
    } == {6}
    nodes = run.manifest()["nodes"]
    items = {n: sum(s[2] for s in v["shards"]) for n, v in nodes.items()}
    assert (
        items["synth"] == items["aligned"] == 6
        and items["target"] == items["projected"] == items["diffpure"] == 12
    )
    assert nodes["synth"]["revisions"]["generator"].startswith("sha256:") and nodes["aligned"]["revisions"][
        "unconditional"
    ].startswith("sha256:")
    assert not any(v["quarantined"] for v in nodes.values())
    assert run.has("report.html") and run.has("figures/figures.json")
    capsys.readouterr()
    assert main(["run", recipe, *options, "--root", str(tmp_path)]) == 0
    assert "everything is in the store" in capsys.readouterr().out


def test_a_partial_copy_is_refused_unless_allowed(options, tmp_path, capsys):
    complete = [o if o != "True" else "False" for o in options]
    assert main(["run", "sda/imagenet_c/resnet50", *complete, "--root", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "6 images in 3 classes" in error and "50,000" in error and "Traceback" not in error
