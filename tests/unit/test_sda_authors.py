"""The recipes with the authors' own settings: their scripts, line by line, against ours."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffadapt.cli import main
from diffadapt.core.config import to_dict
from diffadapt.core.recipes import load, recipes
from diffadapt.data.image import encode_jpeg
from diffadapt.stages.align import Align, _fewer
from diffadapt.stages.image_grid import blocks
from diffadapt.systems.sda import authors

# scripts/gen.sh and the defaults of image_gen_DiT/sample_ddp.py
GENERATION = {"images_per_class": 50, "guidance": 1.0, "steps": 250, "sampler": "ddpm", "output": "truncate",
              "guide_channels": "first3", "precision": "tf32"}  # fmt: skip
# scripts/align.sh: --batch_size 10 --timestep_respacing 100 --D 4 --N 50 --scale 6 --use_fp16 True
ALIGNMENT = {"guidance": "dda-batch", "coupled_batch": 10, "respacing": 100, "factor": 4, "start": 50,
             "scale": 6.0, "precision": "fp16", "noise_at_first_step": False, "storage": "png"}  # fmt: skip
# mmpretrain/configs/_SDAconfigs on 8 devices, and the files under _base_ that they name
RESNET = {"batch_size": 512, "micro_batch": 64, "optimizer": "sgd", "lr": 5e-4, "momentum": 0.9,
          "weight_decay": 1e-4, "decay_norm_and_bias": True, "schedule": "step", "milestones": [10, 20, 25],
          "epochs": 30, "warmup_epochs": 0, "clip_norm": None, "label_smoothing": 0.0, "augment": "resnet",
          "drop_path": 0.0, "precision": "fp32"}  # fmt: skip
TRANSFORMER = {"batch_size": 1024, "micro_batch": 128, "optimizer": "adamw", "lr": 2e-5, "weight_decay": 1e-8,
               "decay_norm_and_bias": False, "schedule": "cosine", "epochs": 30, "warmup_epochs": 5,
               "warmup_lr": 2e-5 * 2e-8, "min_lr": 2e-7, "clip_norm": 5.0, "label_smoothing": 0.1,
               "augment": "transformer", "precision": "fp32"}  # fmt: skip
FINETUNING = {
    "resnet50": ("ResNet-50", RESNET),
    "swin_t": ("Swin-T", {**TRANSFORMER, "drop_path": 0.2}),
    "convnext_t": ("ConvNeXt-T", {**TRANSFORMER, "drop_path": 0.1}),
    "swin_b": ("Swin-B", {**TRANSFORMER, "drop_path": 0.2}),
    "convnext_b": ("ConvNeXt-B", {**TRANSFORMER, "drop_path": 0.5}),
}
# eval/configs/_base_/datasets/imagenet_sda.py
EVALUATION = {"resize": 256, "crop": 224, "crop_mode": "center", "interpolation": "bicubic",
              "eval_resize": "reference", "precision": "fp32"}  # fmt: skip


@pytest.mark.parametrize("benchmark", ["imagenet_c", "imagenet_w"])
@pytest.mark.parametrize("model", FINETUNING)
def test_the_code_recipes_run_what_the_scripts_run(model, benchmark):
    title, finetuning = FINETUNING[model]
    recipe = load(f"sda/{benchmark}/{model}_code")
    theirs = {
        **{f"synth.{k}": v for k, v in GENERATION.items()},
        **{f"align.{k}": v for k, v in ALIGNMENT.items()},
        **{f"finetune.{k}": v for k, v in finetuning.items()},
        **{f"classifier.{k}": v for k, v in EVALUATION.items()},
        "project_storage": "jpeg75",
    }
    config = to_dict(recipe.resolved)
    ours = {field: authors.value_of(config, field) for field in theirs}
    assert ours == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in theirs.items()}
    assert {s.field for s in authors.settings(title)} == set(theirs)
    assert authors.remarks(config, title) == list(authors.beyond())
    assert all(items % recipe.align.coupled_batch == 0 for _, _, items in blocks(recipe.synth, 1000))
    assert recipe.target.data.block % recipe.align.coupled_batch == 0


def test_projections_are_the_bytes_that_pillow_writes_of_itself():
    """torchvision's save_image gives Pillow a *.JPEG and no word on quality or subsampling."""
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG")
    assert encode_jpeg(image, 75) == out.getvalue()


def test_show_says_what_differs_from_the_authors_run(capsys):
    assert main(["show", "sda/imagenet_c/swin_t"]) == 0
    said = capsys.readouterr().out
    assert "- align.guidance dda, theirs dda-batch (th.linalg.norm(difference) of the whole batch)" in said
    assert "- finetune.epochs 15, theirs 30 (max_epochs=30)" in said and "- project_storage png" in said
    assert main(["show", "sda/imagenet_w/swin_t_code"]) == 0
    said = capsys.readouterr().out
    assert "theirs dda-batch" not in said and "- Batch mates: theirs are every eighth image" in said
    assert main(["show", "quickstart"]) == 0 and "authors' own run" not in capsys.readouterr().out


def test_gda_is_guided_alike_under_either_norm():
    aligners = []
    for name in ("resnet50", "resnet50_code"):
        recipe = replace(load(f"sda/imagenet_w/{name}"), methods=("gda",), controls=(), project_storage="png")
        node = next(n for n in recipe.pipeline().nodes if n.name == "gda")
        assert isinstance(node.stage, Align)
        aligners.append(node.stage.config.identity())
    assert aligners[0] == aligners[1]


def test_the_ablations_on_imagenet_w_are_those_on_imagenet_c():
    of_w = [n for n in recipes() if n.startswith("sda/ablations_w/")]
    of_c = [n for n in recipes() if n.startswith("sda/ablations/") and "sensitivity" not in n]
    assert [n.rpartition("/")[2] for n in of_w] == [n.rpartition("/")[2] for n in of_c] and len(of_w) == 24
    for w, c in zip(of_w, of_c, strict=True):
        recipe = load(w)
        assert recipe.target == load("sda/imagenet_w/swin_b").target
        assert replace(load(c), target=recipe.target) == recipe


@pytest.mark.parametrize("model", ["resnet50", "swin_t", "convnext_t"])
def test_the_sensitivity_table_has_gda(model):
    rows = [r.name for r in load(f"sda/ablations/sensitivity_{model}").pipeline().rows]
    alone = ["Source", "DiffPure", "MEMO", "GDA", "DDA", "SDA"]
    assert [r for r in rows if not r.startswith("Tent (")] == alone
    assert sum(r.startswith("Tent (") for r in rows) == 8


def test_a_coupled_batch_that_is_not_full_is_said():
    assert _fewer(500, 10) == []
    (said,) = _fewer(64, 10)
    assert "The last 4 of a shard's 64 images" in said and "1.6 times as strongly" in said
    coupled = load("sda/imagenet_c/resnet50_code").align
    assert Align(coupled).may_warn and not Align(load("sda/imagenet_c/resnet50").align).may_warn
