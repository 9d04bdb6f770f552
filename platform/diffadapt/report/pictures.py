"""The pictures of a run folder (``figures/figures.json`` and files beside it) as data URLs for a
self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import LostError
from diffadapt.core.foreign import parse
from diffadapt.core.runs import Run
from diffadapt.report.mask import masked

LARGEST = 12 * 2**20
"""Bytes of one picture that a report still embeds."""


@dataclass(frozen=True)
class Picture:
    """One captioned picture; ``url`` is empty and ``problem`` says why when it cannot be shown."""

    title: str
    caption: str
    alt: str
    url: str = ""
    problem: str = ""
    width: int = 0
    height: int = 0


def pictures(run: Run) -> list[Picture]:
    """The run's pictures in the order of ``figures.json``; empty when it has none."""
    if not run.has("figures/figures.json"):
        return []
    try:
        sections = parse(run.read("figures/figures.json"))["sections"]
        return [_picture(run, s) for s in sections if isinstance(s, Mapping)]
    except (LostError, ValueError, KeyError, TypeError):
        return [
            Picture(
                "Pictures",
                "",
                "",
                problem="figures/figures.json is damaged: run the recipe again to rewrite it.",
            )
        ]


def _picture(run: Run, section: Mapping[str, Any]) -> Picture:
    title, caption, alt, name = (
        masked(str(section.get(k) or "")) for k in ("title", "caption", "alt", "image")
    )
    if not name or "/" in name or "\\" in name or name.startswith("."):
        return Picture(title, caption, alt, problem=f"{name!r} is not the name of a file in figures/.")
    try:
        data = run.read(f"figures/{name}")
    except LostError:
        return Picture(
            title, caption, alt, problem=f"figures/{name} is missing: run the recipe again to rewrite it."
        )
    kind = _kind(data)
    if not kind:
        return Picture(title, caption, alt, problem=f"figures/{name} is neither PNG nor JPEG.")
    if len(data) > LARGEST:
        return Picture(
            title,
            caption,
            alt,
            problem=(
                f"figures/{name} has {len(data) / 2**20:.0f} MiB and is not embedded; open it in the run"
                " folder."
            ),
        )
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20)) if kind == "png" else (0, 0)
    return Picture(
        title,
        caption,
        alt or title,
        f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "",
        width,
        height,
    )


def _kind(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "jpeg" if data.startswith(b"\xff\xd8\xff") else ""
