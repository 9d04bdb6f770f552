"""The house that platform/README.md draws: a room is a folder of the package, an import goes from a higher
floor to a lower one, never back and never between two rooms of one floor, and files form no circle.

Imports inside functions and under TYPE_CHECKING count too. ``pytest -s`` prints floors and counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"
PACKAGE = "diffadapt"
MOST_FLOORS = 11


@cache
def floors() -> dict[str, int]:
    """Room -> floor, from the lines ``<floor>  <room> <room> ...`` of the README's block."""
    (block,) = re.findall(r"^```floors\n(.*?)^```", (PLATFORM / "README.md").read_text(), re.M | re.S)
    lines = [line.split("#")[0].split() for line in block.splitlines()]
    return {room: int(number) for number, *rooms in lines for room in rooms}


@cache
def modules() -> dict[str, Path]:
    files = sorted((PLATFORM / PACKAGE).rglob("*.py"))
    return {
        ".".join(f.relative_to(PLATFORM).with_suffix("").parts).removesuffix(".__init__"): f for f in files
    }


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports anywhere."""
    return {name: set(_imported(name, file)) - {name} for name, file in modules().items()}


def _imported(name: str, file: Path) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target in modules():
                yield target
            elif target.rpartition(".")[0] in modules():
                yield target.rpartition(".")[0]


def room(module: str) -> str:
    """The folder of the package that the module lies in, or its own name where it lies in none."""
    return module.split(".")[1] if "." in module else ""


def circles() -> list[list[str]]:
    """Groups of files that import each other (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in imports()[module]:
            if target not in index:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == index[module]:
            at = stack.index(module)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for module in modules():
        if module not in index:
            visit(module)
    return groups


def test_every_room_stands_on_a_floor():
    rooms = {room(m) for m in modules()} - {""}
    assert rooms == set(floors()), "rooms of the package and rooms of the README's block differ"
    numbers = sorted(set(floors().values()))
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) <= MOST_FLOORS
    print(f"\n{len(modules())} files, {sum(map(len, imports().values()))} imports, {len(numbers)} floors:")
    for number in reversed(numbers):
        on = [r for r, n in floors().items() if n == number]
        files = ", ".join(f"{r} ({sum(room(m) == r for m in modules())})" for r in on)
        print(f"  {number:>2}  {files}")


def test_no_import_runs_up_or_across():
    guilty = [
        f"{module} -> {target}"
        for module, targets in imports().items()
        for target in sorted(targets)
        if room(module) and room(target) and room(module) != room(target)
        if floors()[room(module)] <= floors()[room(target)]
    ]
    print(f"\nimports that run up or across: {len(guilty)}")
    assert guilty == []


def test_files_form_no_circle():
    print(f"\ncircles: {len(circles())}")
    assert circles() == []
