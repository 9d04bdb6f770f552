"""Every sentence of an error that a user can cause, read from the source: ``raise SomeError("...")``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from diffadapt.core import errors

PACKAGE = Path(errors.__file__).resolve().parents[1]
KINDS = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.DiffadaptError)
}
ROOMS = {
    "audit": "Audits",
    "commands": "The command line",
    "compute": "Computing: precision, several processes",
    "core": "Recipes, store, runs, plans",
    "data": "Images, scenes, labels",
    "diffusion": "Generators, aligners, scene transfer",
    "methods": "Methods",
    "metrics": "Metrics",
    "models": "Weights and networks",
    "orchestrate": "Ray and jobs",
    "parity": "Reference numbers",
    "prompts": "Prompts",
    "report": "Reports",
    "run": "Runs",
    "stages": "Stages",
    "sweeps": "Searches",
    "systems": "SDA, Adapt Anything, ZoDi",
    "tasks": "Training and predicting",
    "train": "Training loops, checkpoints, trackers",
    "ui": "The page in the browser",
    "worlds": "Procedural data",
}
"""Room of the package -> its title on the page; a room that is not named here has its own name."""


def sentences() -> dict[str, list[tuple[str, str]]]:
    """Room -> (kind of error, sentence with <fields>), sorted, each once."""
    found: dict[str, set[tuple[str, str]]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for kind, text in raised(ast.parse(file.read_text(encoding="utf-8"))):
            found.setdefault(room, set()).add((kind, text))
    return {room: sorted(rows, key=lambda r: r[1].lower()) for room, rows in sorted(found.items())}


def raised(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(kind, sentence) of every error of ours that is raised with words of its own."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in KINDS
            and node.args
        ):
            text = " ".join(words(node.args[0]).split())
            if len(text.replace("<", "").split()) > 3:
                yield node.func.id, text


def words(node: ast.expr) -> str:
    """The text of a string expression; what is filled in stands as <name>."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"<{name(node.value)}>"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left) + words(node.right)
    if isinstance(node, ast.IfExp):
        return words(node.body)
    return f"<{name(node)}>"


def name(node: ast.expr) -> str:
    """A short name of what is filled in."""
    if isinstance(node, ast.IfExp):
        return name(node.body)
    if isinstance(node, ast.Constant):
        return str(node.value).strip() or "..."
    if isinstance(node, ast.Call):
        inner = [a for a in node.args if not isinstance(a, ast.Constant)]
        return name(inner[-1]) if inner else name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_").replace("_", " ")
    if isinstance(node, ast.Name):
        return node.id.strip("_").replace("_", " ")
    if isinstance(node, ast.Subscript):
        return name(node.value)
    return "..."


def page() -> str:
    """errors.md."""
    lines = [PAGE]
    for room, rows in sentences().items():
        lines += [
            f"## {ROOMS.get(room, room.capitalize())}",
            "",
            *(f"- {escaped(text)}" for _, text in rows),
            "",
        ]
    return "\n".join(lines)


PAGE = """# When something fails

An error that a user can cause is one sentence on the standard error stream: what is wrong, why, and how
to mend it; the exit status is then 2. Nothing that was finished is lost: mend it and give the same
command again. Search this page for a few words of the sentence (names of your own stand here as
`<name>`).

| what is seen | what to do |
|---|---|
| a sentence, exit status 2 | what it says, then the same command |
| a run was killed, or the machine went down | the same command goes on; `diffadapt status` says how far |
| Ctrl-C | what is in progress is ended cleanly, exit status 130; the same command goes on |
| images are left out | they are counted under the table and named in the report, with the reason |
| CUDA runs out of memory | batches of images are halved; of trainings set `micro_batch` ([memory](cost.md)) |
| a file of the store is damaged | it is named, never used: `diffadapt cache verify --repair`, then go on |
| a number differs from a reference | `diffadapt doctor --parity tests/golden/sda` |
| a traceback | a fault of diffadapt: please report it, with the command |

This page is made from the source (`python -m tests.docs --write`); a test holds it to it.
"""


def escaped(text: str) -> str:
    """Markdown that shows ``text`` as it is."""
    for mark in "\\`*_[]<>#|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text
