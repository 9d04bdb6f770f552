"""The shipped small text-to-image model of digits and letters, and its CLIP model, made from nothing."""

from __future__ import annotations

from diffadapt.systems.glyphs import Glyphs


def recipe() -> Glyphs:
    """Train a small text-to-image model on drawn digits and letters: about 15 minutes on a CPU (made
    embedded:glyphs)."""
    return Glyphs()
