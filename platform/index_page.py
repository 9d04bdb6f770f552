"""Run when a wheel or a source distribution is built: README.md as the text of the index page. There its
links have no folder to start from: they become absolute below the address that pyproject.toml gives as
Repository, and without one the words alone, with the place in the source distribution."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)[^)\s]+\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


class IndexPage(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository", "").rstrip("/")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}


def absolute(text: str, address: str) -> str:
    """``text`` (Markdown) without a relative link or picture."""
    if address:
        text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)([^)\s]+\))", rf"\1{address}/raw/HEAD/\2", text)
        return LINK.sub(rf"[\1]({address}/blob/HEAD/\2)", text)
    text = PICTURE.sub(r"\1", text)
    return LINK.sub(lambda m: m[1] if m[1].strip("`") == m[2] else f"{m[1]} (`{m[2]}`)", text)
