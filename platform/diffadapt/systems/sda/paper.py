"""The paper's models and generators, shared by the ImageNet recipes: as we run them, and with the settings of
the authors' own scripts (authors.json)."""

from __future__ import annotations

from dataclasses import replace

from diffadapt.core.config import strict_precision
from diffadapt.data.config import DataConfig, TargetConfig
from diffadapt.diffusion.aligners.config import AlignConfig, dda_published, diffpure
from diffadapt.diffusion.generators.config import SynthConfig
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.systems.sda.recipe import SDA
from diffadapt.train import config as fits

TRANSFORMER_MEMO = dict(optimizer="adamw", lr=1e-5, weight_decay=0.01)
MODELS = {
    # name: (weights, paper's schedule, code's schedule, is a transformer or ConvNeXt)
    "resnet50": ("weights/openmmlab-resnet50", fits.RESNET_PAPER, fits.RESNET_CODE, False),
    "swin_t": ("weights/openmmlab-swin-t", fits.SWIN_PAPER, fits.SWIN_CODE, True),
    "convnext_t": ("convnext_tiny.fb_in1k", fits.CONVNEXT_T_PAPER, fits.CONVNEXT_T_CODE, True),
    "swin_b": ("weights/openmmlab-swin-b", fits.SWIN_PAPER, fits.SWIN_CODE, True),
    "convnext_b": ("convnext_base.fb_in1k", fits.CONVNEXT_B_PAPER, fits.CONVNEXT_B_CODE, True),
}


def sda(model: str, benchmark: str, settings: str = "paper", **changes) -> SDA:
    """The paper's setting for one model on one benchmark; ``changes`` replace fields of the recipe.

    ``settings`` 'paper': the schedule of Table 7, a norm for each image, lossless images. 'code': what the
    authors' scripts run, so far as settings say it (:func:`diffadapt.systems.sda.authors.settings`): their
    schedule, one norm over ten images, projections as JPEG 75.
    """
    weights, paper, code, transformer = MODELS[model]
    recipe = dict(
        classifier=ClassifierConfig(name=weights),
        target=TargetConfig(kind=benchmark, data=DataConfig(path=f"data/{benchmark}", block=500)),
        num_classes=1000,
        synth=SynthConfig(precision="tf32"),  # as the DiT authors sample
        # as the ADM authors sample; the batch takes 46 GB
        align=AlignConfig(precision="fp16", batch_size=16),
        diffpure=diffpure(batch_size=32),  # no gradient: a quarter of it
        finetune=paper,
        memo=MemoConfig(**TRANSFORMER_MEMO) if transformer else MemoConfig(),
        tent=TentConfig(),
        controls=("nonaligned", "projection", "finetuned"),
    )
    if settings == "code":
        recipe |= dict(
            # a class a shard: all batches have ten images, as in their sorted list most are of one class
            synth=SynthConfig(precision="tf32", images_per_shard=50, classes_per_shard=1),
            align=dda_published(precision="fp16", storage="png"),
            project_storage="jpeg75",
            finetune=code,
        )
    return strict_precision(SDA(**{**recipe, **changes}))


def components(model: str, benchmark: str) -> SDA:
    """Table 4: fine-tuned on synthetic images with and without alignment."""
    return sda(
        model,
        benchmark,
        methods=("source", "dda", "sda"),
        controls=("nonaligned", "projection", "finetuned"),
    )


def varied(model: str, benchmark: str, **synthesis: float) -> SDA:
    """Tables 5 and 6: SDA beside Source and DDA with another ``images_per_class`` or ``guidance``."""
    recipe = sda(model, benchmark, methods=("source", "dda", "sda"), controls=())
    return replace(recipe, synth=replace(recipe.synth, **synthesis))


def sensitivity(model: str) -> SDA:
    """Table 8: Tent's eight settings beside the methods that look at each image by itself."""
    methods = ("source", "memo", "diffpure", "tent", "gda", "dda", "sda")
    return sda(model, "imagenet-c", methods=methods, controls=(), tent_grid=True)
