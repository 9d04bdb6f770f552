"""The shipped small layout-conditional generator of street scenes, made from nothing."""

from __future__ import annotations

from diffadapt.systems.streets import Streets


def recipe() -> Streets:
    """Train a small Stable Diffusion ControlNet pipeline on drawn streets: about 20 minutes on one CPU core
    (made embedded:streets)."""
    return Streets()
