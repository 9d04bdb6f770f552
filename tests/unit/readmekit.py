"""The code of platform/README.md, so that what a reader copies is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "platform" / "README.md").read_text(encoding="utf-8")


def blocks() -> dict[str, str]:
    """Path -> code of every Python block that begins with the path of its file."""
    found = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", TEXT, re.M | re.S)
    assert len(dict(found)) == len(found)
    return dict(found)
