"""``python -m tests.docs [--write]``: the generated pages; without --write says which differ."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.docs import cost, sentences

DOCS = Path(__file__).resolve().parents[2] / "platform" / "docs"
PAGES = {"errors.md": sentences.page, "cost.md": cost.page}


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        file, text = DOCS / name, page()
        if "--write" in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"{', '.join(stale)}: not what the code says; python -m tests.docs --write")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
