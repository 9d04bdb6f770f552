"""Which licence the weights of a run's generators are under, as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KNOWN = {
    "embedded:": "apache-2.0",
    "compvis/stable-diffusion": "creativeml-openrail-m",
    "runwayml/stable-diffusion": "creativeml-openrail-m",
    "stable-diffusion-v1-5/": "creativeml-openrail-m",
    "sd-legacy/": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2": "openrail++",
    "sd2-community/": "openrail++",
    "stabilityai/stable-diffusion-xl": "openrail++",
    "stabilityai/sd-turbo": "sai-nc-community",
    "stabilityai/sdxl-turbo": "sai-nc-community",
    "stabilityai/stable-diffusion-3": "stabilityai-ai-community",
    "black-forest-labs/flux.1-schnell": "apache-2.0",
    "black-forest-labs/flux.1-dev": "flux-1-dev-non-commercial-license",
    "pixart-alpha/": "openrail++",
    "facebook/dit-xl-2": "cc-by-nc-4.0",
    "dit-xl-2": "cc-by-nc-4.0",
    "adm-256": "mit",
    "glide": "mit",
}
"""The beginning of a name -> the licence, as the weights' own pages state it."""
ROLES = {
    "generator": "Synthetic images", "synth": "Synthetic images", "layout_to_image": "Synthetic images",
    "transfer": "Transferred images", "align": "Alignment and projection",
}  # fmt: skip
"""The part of a recipe that names weights -> what they made."""


def licences(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what was made, the weights' name, their licence or '') of every generator that a run used; a local
    folder is named by its last part, and its licence is the one that its own card states."""
    found = []
    for part, made in ROLES.items():
        weights = ((manifest.get("config") or {}).get(part) or {}).get("weights")
        if isinstance(weights, str) and weights not in ("", "train", "none"):
            local = weights.startswith(("/", "~", "."))
            name = weights.rstrip("/").rsplit("/", 1)[-1] if local else weights
            found.append((made, name, licence_of(weights)))
    return found


def licence_of(weights: str) -> str:
    """The licence of weights by their name, or by the card in their folder; '' where neither tells."""
    card = Path(weights).expanduser() / "README.md"
    try:
        front = card.read_text(errors="replace").split("---")[1] if card.is_file() else ""
    except (OSError, IndexError):
        front = ""
    if stated := re.search(r"^license:\s*['\"]?([\w.+-]+)", front, re.MULTILINE):
        return stated[1]
    name = weights.lower().rstrip("/")
    short = name.rsplit("/", 1)[-1]
    return next((v for k, v in KNOWN.items() if name.startswith(k) or short.startswith(k)), "")


def licence_section(manifest: Mapping[str, Any], what: str) -> list[str]:
    """The part of a card on the licences of ``what``: lines of Markdown; none where nothing generated it."""
    from diffadapt.core.redact import redact

    used = licences(manifest)
    if not used:
        return []
    lines = ["", "## Licence", ""]
    for made, name, licence in used:
        said = f"under `{licence}`" if licence else "under a licence that is not known here: look it up"
        lines.append(f"- {made}: by `{redact(name)}`, whose weights are {said}.")
    return [*lines, "", f"What these licences say of outputs holds for {what} too."]
