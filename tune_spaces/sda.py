"""Searches over SDA: the settings that its ablations vary."""

from __future__ import annotations

from diffadapt.sweeps.space import Choice, Space

RECIPE = "quickstart"
LEAN = {"methods": ("source", "sda"), "controls": ()}


def aligner_strength() -> Space:
    """Step at which the aligner starts (of 10 on the digits, of 100 on ImageNet) x scale of its structural
    guidance."""
    return Space(
        {"align.start": Choice(2, 3, 5), "align.scale": Choice(1.0, 2.0, 4.0)}, base=LEAN, recipe=RECIPE
    )


def image_count() -> Space:
    """Synthetic images a class (an ablation of the SDA paper); the largest number is generated and aligned
    once."""
    return Space({"synth.images_per_class": Choice(25, 50, 100, 200)}, base=LEAN, recipe=RECIPE)


def guidance() -> Space:
    """Classifier-free guidance of the conditional generator."""
    return Space({"synth.guidance": Choice(1.0, 1.5, 4.0)}, base=LEAN, recipe=RECIPE)
