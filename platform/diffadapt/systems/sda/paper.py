"""The paper's models and generators, shared by the ImageNet recipes."""

from __future__ import annotations

from diffadapt.data.config import DataConfig, TargetConfig
from diffadapt.diffusion.aligners.config import AlignConfig, diffpure
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


def sda(model: str, benchmark: str, schedule: str = "paper", **changes) -> SDA:
    """The paper's setting for one model on one benchmark; ``changes`` replace fields of the recipe."""
    weights, paper, code, transformer = MODELS[model]
    recipe = dict(
        classifier=ClassifierConfig(name=weights),
        target=TargetConfig(kind=benchmark, data=DataConfig(path=f"data/{benchmark}", block=500)),
        num_classes=1000,
        synth=SynthConfig(precision="tf32"),  # as the DiT authors sample
        align=AlignConfig(precision="fp16"),  # as the ADM authors sample
        diffpure=diffpure(),
        finetune=paper if schedule == "paper" else code,
        memo=MemoConfig(**TRANSFORMER_MEMO) if transformer else MemoConfig(),
        tent=TentConfig(),
        controls=("nonaligned", "projection", "finetuned"),
    )
    return SDA(**{**recipe, **changes})
