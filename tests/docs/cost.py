"""Hours and GPU memory of the published settings, from the counted FLOPs of their networks."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from diffadapt.api.precision import settled
from diffadapt.commands.options import parse_recipe
from diffadapt.commands.plan import PlanOptions, missing_time
from diffadapt.core.leniency import lenient
from diffadapt.core.units import hours_text

DEVICES = ("RTX 4090", "A100", "H100")
PHOTOS, CLASSES = 500, 31


class Setting(NamedTuple):
    title: str
    words: tuple[str, ...]
    shown: str
    """The command without places of this machine."""


def settings(folder: Path) -> list[Setting]:
    """The published settings; ``folder`` gets stand-ins of a user's photos, which nobody reads."""
    photos = folder / "photos"
    photos.mkdir()
    for i in range(PHOTOS):
        Image.new("RGB", (8, 8), (i % 256, 0, 0)).save(photos / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(f"class {chr(97 + i % 26)}{i}" for i in range(CLASSES)))
    own = ("--classes", str(folder / "classes.txt"), "--target", str(photos))
    sda = [
        (f"SDA, ImageNet-C, {title}", f"sda/imagenet_c/{name}")
        for title, name in (
            ("ResNet-50", "resnet50"), ("Swin-T", "swin_t"), ("ConvNeXt-T", "convnext_t"),
            ("Swin-B", "swin_b"), ("ConvNeXt-B", "convnext_b"),
        )
    ]  # fmt: skip
    sda.append(("SDA, ImageNet-W, ResNet-50", "sda/imagenet_w/resnet50"))
    zodi = [
        ("ZoDi, Cityscapes to ACDC night", "zodi/cityscapes_acdc"),
        ("ZoDi, Cityscapes to GTA5", "zodi/cityscapes_gta5"),
    ]
    adapt = [
        Setting(
            f"Adapt Anything, {CLASSES} classes, {PHOTOS} photos, {n} images a class of Stable Diffusion 1.5",
            ("adapt_anything", *own, "--images-per-class", str(n)),
            f"adapt_anything --classes classes.txt --target photos/ --images-per-class {n}",
        )
        for n in (50, 200)
    ]
    return [*adapt, *(Setting(title, (name,), name) for title, name in (*zodi, *sda))]


def rows(devices: Sequence[str] = DEVICES, only: Collection[str] = ()) -> list[list[str]]:
    """A row a setting (those of the recipes ``only``, if any): title, command, GB of GPU, hours on each
    device."""
    from diffadapt.core.runs import Root

    out = []
    with tempfile.TemporaryDirectory() as place:
        for setting in settings(Path(place)):
            if only and setting.words[0] not in only:
                continue
            hours, memory, largest = [], 0.0, ""
            for device in devices:
                words = [*setting.words, "--on", device, "--root", f"{place}/root"]
                _, recipe, options = parse_recipe(PlanOptions, words, "plan")
                machine = options.machine()
                recipe = settled(recipe, machine, None)
                with lenient():
                    plans = recipe.pipeline().plan(Root(options.root).store)
                guess = missing_time(plans, Root(options.root), machine)
                hours.append(hours_text(guess.seconds / 3600))
                for stage in guess.stages:
                    if stage.need is not None and stage.need.memory > memory:
                        memory, largest = stage.need.memory, stage.name
            out.append([setting.title, f"`{setting.shown}`", f"{memory / 1e9:.0f} ({largest})", *hours])
    return out


def page() -> str:
    """cost.md."""
    titles = ["setting", "recipe", "GB of GPU (stage)", *(f"hours, one {d}" for d in DEVICES)]
    table = [f"| {' | '.join(r)} |" for r in (titles, ["---"] * len(titles), *rows())]
    return PAGE.replace("TABLE", "\n".join(table))


PAGE = """# How long, and how much memory

**Counted, not measured.** The floating-point operations of every network in the recipe, over an assumed
share of what the device's data sheet says, on one device, from an empty store; right within a factor of
about two. Reading and decoding, figures and filters are not counted, so the hours are the least. Several
devices divide them. `diffadapt plan <recipe> --on <device> --nodes N` does the same for your own settings
and machine, stage by stage and with prices, needs no weights, and goes by what was measured as soon as a
shard was made (`--calibrate` makes one of each stage).

TABLE

Memory is that of the stage that needs most, at the recipe's batch. Batches of images are halved until
they fit; of trainings `micro_batch` takes a batch in parts. What decides the hours of SDA is the guided
loop of alignment and projection: rows of one to three calls (`--cheap one-step`) take a fiftieth of it or
less ([results](results.md#sda-on-the-digits-the-quickstart)).

## On a CPU

Measured on two cores: the quickstart 2 minutes (SDA) and 4 minutes (Adapt Anything), `zodi/tiny` 4
minutes, Office-31 on cached features half an hour.

This page is made by `python -m tests.docs --write`; a test holds it to what `plan` counts.
"""
