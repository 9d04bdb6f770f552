"""The notebooks run from top to bottom, with the shipped weights and without Jupyter, and are pages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import diffadapt as da
from tests.docs.__main__ import DOCS

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LONG = ("search", "own-photos")
"""Those that start Ray, or train for most of a minute."""


def sources(notebook: Path, kind: str) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def shown(source: str, names: dict[str, Any]) -> Any:
    """What a kernel would show below a cell: the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(n, marks=pytest.mark.slow if n.stem in LONG else (), id=n.stem) for n in NOTEBOOKS],
)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFADAPT_ROOT", raising=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in sources(notebook, "code"):
        value = shown(source, names)
        if hasattr(value, "_repr_html_"):
            assert value._repr_html_()
    if notebook.stem == "own-photos":
        assert names["accuracy"] > 0.3  # of ten classes
    if notebook.stem == "own-classifier":
        means = names["run"].table()["mean"]
        assert means["SDA"] > means["Source"]
    assert names["run"].state == "finished"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_is_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")
    assert len({c["id"] for c in cells}) == len(cells)
    assert sources(notebook, "markdown")[0].startswith("# ")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_is_a_page(notebook):
    pytest.importorskip("mkdocs")
    import importlib.util

    spec = importlib.util.spec_from_file_location("notebook_pages", DOCS.parent / "notebook_pages.py")
    assert spec and spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    page = pages.as_markdown(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
    assert page.startswith("# ") and f"]({notebook.name})" in page
    assert page.count("```python\n") == len(sources(notebook, "code"))
    assert f"notebooks/{notebook.stem}.md" in (DOCS.parent / "mkdocs.yml").read_text()


def test_the_guide_names_what_there_is():
    """Every name of the library in the guide's code and tables, and every attribute of a run."""
    text = (DOCS / "guides" / "library.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        ast.parse(block)
    used = set(re.findall(r"\bda\.(\w+)", text))
    assert used <= set(da.__all__) and {"recipe", "plan", "run", "runs", "predict", "sweep"} <= used
    assert all(hasattr(da.Run, name) for name in re.findall(r"\brun\.(\w+)", text))
