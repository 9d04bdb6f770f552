"""Templates and the style sheet of the pages that reports are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

FOLDER = Path(__file__).parent


def load_page(name: str, folder: Path = FOLDER) -> Any:
    """The template ``name`` of ``folder``; what it includes may also lie in the report's own."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def style_sheet() -> Markup:
    """The style of every page."""
    return Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
