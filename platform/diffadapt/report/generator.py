"""What made a run's synthetic images, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOY = ("embedded:glyphs",)


def is_synthetic(manifest: Mapping[str, Any]) -> bool:
    """Whether the run trains on images made from text."""
    return any(n.get("kind") == "prompts" for n in (manifest.get("nodes") or {}).values())


def weights(manifest: Mapping[str, Any]) -> str:
    """The text-to-image weights as the recipe names them."""
    return str(((manifest.get("config") or {}).get("generator") or {}).get("weights", ""))


def is_toy(manifest: Mapping[str, Any]) -> bool:
    """Whether a shipped toy generator made the images."""
    return is_synthetic(manifest) and weights(manifest) in TOY


def described(manifest: Mapping[str, Any]) -> str:
    """'name (revision ...)', empty for a run without synthetic images. A local folder is named by its last
    part alone."""
    if not is_synthetic(manifest):
        return ""
    name = weights(manifest)
    revisions = [
        str(n["revisions"]["generator"])
        for n in manifest["nodes"].values()
        if n.get("kind") == "synth" and "generator" in (n.get("revisions") or {})
    ]
    short = name.rstrip("/").replace("\\", "/").split("/")[-1] if name.startswith(("/", "~", ".")) else name
    return short + (f" (revision {revisions[0]})" if revisions else "")
