"""A hook of MkDocs: every notebook is a page too, and links to a notebook lead to its page."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """The cells of a notebook as text and code; ``name``: its file, for those who want to run it."""
    parts = [f"[This page as a notebook]({name}), to run and to change."]
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title = next(i for i, part in enumerate(parts) if part.startswith("# "))
    head, _, rest = parts.pop(title).partition("\n")
    return "\n\n".join([head, parts[0], rest.strip(), *parts[1:]]) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs."""
    for found in [f for f in files if f.src_uri.endswith(".ipynb")]:
        text = as_markdown(json.loads(found.content_string), posixpath.basename(found.src_uri))
        files.append(File.generated(config, f"{found.src_uri.removesuffix('.ipynb')}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", markdown)
