"""Rules of the tree that no one should have to remember: who may import what, file lengths, no paths of one
machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"
PACKAGE = PLATFORM / "diffadapt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 500
"""Lines: a file is about one thing, and what is read together stands together."""
HEAVY = ("torch", "ray", "diffusers", "timm", "transformers", "torchvision")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PLATFORM).with_suffix("").parts).removesuffix(".__init__")


def light_files() -> list[Path]:
    """What must start in a moment: the core, reports, configuration, the command line and its commands,
    recipes' types."""
    folders = ("core", "report", "api", "commands", "systems", "sweeps")
    return [
        f
        for f in SOURCES
        if f.relative_to(PACKAGE).parts[0] in folders or f.name == "config.py" or f.parent == PACKAGE
    ]


def python(code: str, *path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, path)), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_platform_does_not_shadow_the_standard_library():
    assert not (PLATFORM / "__init__.py").exists()
    out = python(
        "import platform; print(platform.machine()); print(platform.__file__)", PLATFORM, ROOT
    ).splitlines()
    assert out[0] and "platform.py" in out[1] and str(ROOT / "platform") not in out[1]


def test_light_modules_import_nothing_heavy():
    """One process; after each import the loaded heavy modules are looked at, so that the culprit is named."""
    names = [module_name(f) for f in light_files()]
    assert {
        "diffadapt.cli",
        "diffadapt.core.store",
        "diffadapt.report.html",
        "diffadapt.commands.cache",
        "diffadapt.diffusion.aligners.config",
    } <= set(names)
    code = f"""
import importlib, json, sys
found = {{}}
for name in {names!r}:
    importlib.import_module(name)
    heavy = [h for h in {HEAVY!r} if h in sys.modules]
    if heavy:
        found[name] = heavy
        break
print(json.dumps(found))
"""
    assert json.loads(python(code, PLATFORM).splitlines()[-1]) == {}


def test_recipes_load_without_torch():
    code = (
        "import sys; from diffadapt.core.recipes import recipes, load; [load(n) for n in recipes()];"
        " print(len(recipes()), 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    count, torch, ray = python(code, PLATFORM).split()
    assert int(count) > 20 and (torch, ray) == ("False", "False")


def test_only_orchestrate_imports_ray():
    wanted = re.compile(r"^\s*(import ray\b|from ray\b)", re.M)
    guilty = [
        f.relative_to(ROOT).as_posix()
        for f in SOURCES
        if wanted.search(f.read_text()) and "orchestrate" not in f.parts
    ]
    assert guilty == []


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_files_are_short_and_say_what_they_are_about(file):
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    assert not text.strip() or text.startswith('"""'), "a module begins with a sentence on what it is about"


def test_no_statement_hides_in_an_expression():
    """``a() if c else None``, ``(a(), b())``, ``c and a()`` and ``[a() for ...]`` are no statements."""
    hidden = (ast.IfExp, ast.Tuple, ast.BoolOp, ast.ListComp)
    guilty = [
        f"{f.relative_to(ROOT).as_posix()}:{node.lineno}"
        for f in SOURCES
        for node in ast.walk(ast.parse(f.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, hidden)
    ]
    assert guilty == []


def test_no_path_of_one_machine():
    suffixes = {
        ".py",
        ".toml",
        ".md",
        ".yaml",
        ".yml",
        ".json",
        ".sh",
        ".css",
        ".html",
        ".j2",
        ".tf",
        ".txt",
        "",
    }
    skipped = {".venv", ".git", ".ruff_cache", "__pycache__", "golden"}
    pattern = re.compile(
        r"/work/|/root/|/home/(?!ubuntu/|ray\b)[a-z]"
    )  # the users of cloud machines and of images
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = (
        [ROOT / line for line in listed.stdout.splitlines()]
        if listed.returncode == 0
        else list(ROOT.rglob("*"))
    )
    files = [
        f
        for f in files
        if f.is_file()
        and f.suffix in suffixes
        and not skipped & set(f.relative_to(ROOT).parts)
        and f != Path(__file__)
    ]
    guilty = [f.relative_to(ROOT).as_posix() for f in files if pattern.search(f.read_text(errors="replace"))]
    assert len(files) > 50 and guilty == []
