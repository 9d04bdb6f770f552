"""A finished small run of Adapt Anything for command-line tests: a random text-to-image pipeline, real digits
as target."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from diffadapt.data.embedded import digits
from diffadapt.data.image import encode_png

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

RECIPE = '''"""A recipe for tests."""

from dataclasses import replace

from diffadapt.data.config import DataConfig
from diffadapt.methods.ssl.config import SslConfig
from diffadapt.methods.uda.config import METHODS, UdaConfig
from diffadapt.models.config import BackboneConfig, ClipConfig
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.systems.adapt_anything.recipe import AdaptAnything


def recipe():
    """Ten classes in seconds: nothing is learnt, everything is made."""
    return AdaptAnything(
        target=DataConfig(image_size=16, channels=1, block=20), domain="handwritten digits",
        prompts=PromptConfig(source="bank", prompts_per_class=3), controls=(),
        generator=TextToImageConfig(images_per_class=3, guidance=1.0, steps=1, precision="fp32",
            images_per_shard=3, classes_per_shard=10),
        backbone=BackboneConfig(name="train", arch="cifar_resnet8", in_channels=1, resize=0, crop=16,
            mean=(0.5,), std=(0.5,)),
        uda=UdaConfig(method="dann", epochs=1, steps_per_epoch=3, batch_size=8, augment="shift", flip=False,
            dann=METHODS["dann"](bottleneck=16)),
        ssl=SslConfig(epochs=1, steps_per_epoch=3, batch_size=8, augment="shift", flip=False),
        clip=ClipConfig(weights=""),
    )
'''


def prepare(folder: Path) -> list[str]:
    """Write recipe, classes, target images and generator under ``folder``; the words of the command that runs
    it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
    from tinypipelines import stable_diffusion

    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines" / "smalladapt.py").write_text(RECIPE)
    (folder / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    _, images, labels = digits("test")
    for i in range(40):
        place = folder / "target" / NAMES[int(labels[i * 10])]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(encode_png(images[i * 10]))
    generator = stable_diffusion(folder / "generator")
    os.environ["DIFFADAPT_PIPELINES"] = str(folder / "pipelines")
    return [
        "run",
        "smalladapt",
        "--classes",
        str(folder / "classes.txt"),
        "--target",
        str(folder / "target"),
        "--generator",
        str(generator),
        "--root",
        str(folder / "root"),
        "--execution.runner",
        "local",
    ]
