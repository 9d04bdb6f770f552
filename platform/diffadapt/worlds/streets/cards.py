"""The README.md of a small layout-conditional generator. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.data.scenes.table import ClassTable
from diffadapt.worlds.streets.config import NEGATIVE, SUFFIX, LayoutFitConfig

_STREETS = """Drawn by a program (`diffadapt/worlds/streets/scenes.py`, split `pretrain`); no data set of \
images was seen. That split is a world of its own:
other palettes, wider ranges of geometry, other darkness, fog and noise than the splits train, val and \
test, in which adaptation
is tried, so that the generator knows neither a target image nor a target's exact style.

## How it was made

```
diffadapt run zodi/weights
diffadapt export last --what generator --out streets
```
"""
_OTHER = (
    "Their licence is that of the data that it was trained on: check it before the weights are passed on."
)
_PURPOSE = "Made so that examples and tests of ZoDi run without a download; not a model of the world."


def layout_card(
    classes: ClassTable,
    config: LayoutFitConfig,
    captions: Sequence[str],
    appearances: Sequence[str],
    metrics: Mapping[str, Any],
) -> str:
    """Markdown with Hugging Face front matter for a StableDiffusionControlNetPipeline folder."""
    streets = classes.name == "streets"
    colours = "\n".join(
        f"| {name} | {', '.join(map(str, colour))} |"
        for name, colour in zip(classes.names, classes.colours, strict=True)
    )
    relit = (
        f"Beside them copies that a program relit by what each pixel is ({', '.join(appearances)};"
        f" {config.variants} of each scene): no image of these appearances was seen."
        if appearances
        else ""
    )
    purpose = _PURPOSE if streets else ""
    prompts = "; ".join(f'"{c}"' for c in dict.fromkeys((*captions, *_captions(appearances))))
    size = f"crops of {config.crop[0]}x{config.crop[1]}" if config.crop != (0, 0) else "whole images"
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
{"license: apache-2.0" if streets else "license: other"}
tags:
- stable-diffusion
- controlnet
---
# {"Streets: a small" if streets else "A small"} layout-conditional generator

A latent diffusion model of {metrics["parameters"] / 1e6:.2f} million parameters with a ControlNet that \
sees the label map, for image transfer that
keeps the layout. {purpose}

```python
from diffusers import StableDiffusionControlNetPipeline

pipe = StableDiffusionControlNetPipeline.from_pretrained("<this folder>")
image = pipe("{captions[-1]}{SUFFIX}", image=colour_map, negative_prompt="{NEGATIVE}", \
num_inference_steps=20, guidance_scale=3.0).images[0]
```

Noise prediction on Stable Diffusion's schedule; autoencoder of factor \
{2 ** (len(config.vae.channels) - 1)} with {config.vae.latent_channels} channels, \
{metrics["reconstruction_psnr"]:.1f} dB on training images; U-Net and
ControlNet attend at their deepest level only, so that any size that is a multiple of {config.unit} can be \
generated. {config.vae.steps} and {config.steps} training
steps of {config.vae.batch_size} and {config.batch_size} examples, {size}. Stored in {config.save_precision}.

## Prompts

Trained with the captions {prompts}, half of them followed by "{SUFFIX}". Other words are one and
the same unknown word to it. Without a caption: the empty prompt or "{NEGATIVE}".

## Colours of the layout

| class | red, green, blue |
|---|---|
{colours}

Everything else is black.

## Data

{metrics["scenes"]} labelled scenes, {metrics["examples"]} examples. {relit}

{_STREETS if streets else _OTHER}
## Limitations

It generates what it was trained on, at about the sizes that it was trained on, and nothing else.
"""


def _captions(appearances: Sequence[str]) -> list[str]:
    from diffadapt.data.scenes.relight import CAPTIONS

    return [CAPTIONS[name] for name in appearances]
