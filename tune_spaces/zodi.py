"""Searches over ZoDi's transfer, judged without a target image: mean IoU on transferred test images of the
source."""

from __future__ import annotations

from diffadapt.sweeps.space import ESTIMATED, Choice, SearchConfig, Space

RECIPE = "zodi/tiny"
LEAN = {"methods": ("source_only", "zodi"), "variants": ()}
JUDGED = SearchConfig(objective=ESTIMATED)


def strength_and_guidance() -> Space:
    """Strength of the transfer x guidance; read the contact sheets beside the figures (a transfer that
    changes nothing is easy to segment)."""
    return Space(
        {"transfer.strength": Choice(0.5, 0.7, 0.9), "transfer.guidance": Choice(1.5, 3.0, 6.0)},
        JUDGED,
        LEAN,
        RECIPE,
    )


def similarity() -> Space:
    """Weight of the feature similarity; the transferred images are made once for all trials."""
    return Space({"training.similarity": Choice(0.0, 0.1, 0.3, 1.0)}, JUDGED, LEAN, RECIPE)


def inversion() -> Space:
    """How an image is taken to noise: stochastic, edit-friendly, plain."""
    return Space({"transfer.method": Choice("stochastic", "edit_friendly", "img2img")}, JUDGED, LEAN, RECIPE)
