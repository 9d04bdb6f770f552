"""The README.md of the small text-to-image model and of its CLIP model. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffadapt.worlds.config import ClipFitConfig, TextToImageFitConfig
from diffadapt.worlds.glyphs.captions import STYLES
from diffadapt.worlds.glyphs.drawing import GlyphConfig, find_fonts, font_name

_COMMAND = """```
diffadapt run adapt_anything/glyphs
diffadapt export last --what {what} --out {folder}
```"""


def generator_card(data: GlyphConfig, config: TextToImageFitConfig, metrics: Mapping[str, Any]) -> str:
    """Markdown with Hugging Face front matter for a StableDiffusionPipeline folder."""
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags:
- text-to-image
- stable-diffusion
---
# Glyphs: a small text-to-image model of digits and letters

Draws a digit or letter, {data.size}x{data.size} pixels, light on dark, grey as RGB, in seconds on a CPU. \
Made so that examples and tests of
Adapt Anything run without a download; not a model of the world.

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("<this folder>")
image = pipe("a photo of a thick handwritten seven", num_inference_steps={config.sampling_steps}, \
guidance_scale=4.0).images[0]
```

{metrics["parameters"] / 1e6:.2f} million parameters ({metrics["unet_parameters"] / 1e6:.2f} in the \
denoising network). v-prediction on a schedule of zero terminal SNR, DDIM with trailing
steps; {config.steps} training steps of {config.batch_size} pictures.

## Prompts

Name a digit by word or numeral ("zero" ... "nine", "0" ... "9"), or "letter g", "capital letter g". It \
knows these words of style:
{"; ".join(f"{name} ({', '.join(words)})" for name, words in STYLES.items())}.
Other words are one and the same unknown word to it and change little.

## Data

{data.examples} pictures drawn by a program (seed {data.seed}); no data set of images, handwritten digits \
included, was seen. Characters come from
fonts and, for {data.handwriting:.0%} of the digits, from stroke skeletons made for this purpose, each with \
random slant, weight, size, blur,
contrast and noise, and a caption that names most of them.

{_fonts(data)}

## How it was made

{_COMMAND.format(what="generator", folder="glyphs")}

## Limitations

It draws nothing but digits and Latin letters, letters only in fonts' shapes, and long lists of styles can \
lose the subject.
"""


def clip_card(data: GlyphConfig, config: ClipFitConfig, metrics: Mapping[str, Any]) -> str:
    """Markdown with Hugging Face front matter for a CLIPModel folder."""
    return f"""---
library_name: transformers
pipeline_tag: zero-shot-image-classification
license: apache-2.0
---
# A small CLIP model of digits and letters

Text and pictures ({data.size}x{data.size}) of drawn digits and letters in one space of {config.width} \
dimensions; {metrics["parameters"] / 1e6:.2f} million parameters. Its text encoder
conditions the small text-to-image model; the whole serves zero-shot classification and filtering in \
examples and tests. The
tokenizer has whole words: load it with `AutoTokenizer`.

## Data

{data.examples} pictures drawn by a program (seed {data.seed}) with captions; no data set of images was \
seen. {config.steps} steps of {config.batch_size} pairs.

{_fonts(data)}

## How it was made

{_COMMAND.format(what="clip", folder="glyphs-clip")}

## Limitations

It knows drawn digits and letters and the words of their captions, nothing else.
"""


def _fonts(data: GlyphConfig) -> str:
    return "Fonts: " + ", ".join(font_name(f) for f in find_fonts(data.fonts)) + "."
