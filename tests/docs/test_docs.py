"""The pages: what they show can be typed, where they point to is there, and what is made from the code is
up to date."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import tyro

from diffadapt.cli import COMMANDS, main
from tests.docs import cost, sentences
from tests.docs.__main__ import DOCS

ROOT = DOCS.parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(p for p in DOCS.rglob("*.md") if not {"adr", "site"} & set(p.relative_to(DOCS).parts[:-1])),
    ]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Parsed(BaseException):
    """The command line was understood."""


def blocks(text: str) -> list[str]:
    """The contents of the fenced blocks."""
    return re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)


@cache
def typed(page: Path) -> tuple[str, ...]:
    """Every line of a page that begins with ``diffadapt``, in blocks and within sentences."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for b in blocks(text) for line in b.replace("\\\n", " ").splitlines()]
    lines = [part.strip() for line in lines for part in re.split(r";|&&", line.split("  #")[0])]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines += [" ".join(word.split()) for word in re.findall(r"`(diffadapt [^`]+)`", prose)]
    found = (line.split(" # ")[0].strip() for line in lines if line.startswith("diffadapt "))
    return tuple(dict.fromkeys(line for line in found if not re.search(r"<\w|\.\.\.", line)))


COMMANDS_SHOWN = [(page, line) for page in PAGES if page.name != "errors.md" for line in typed(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS_SHOWN, ids=lambda v: str(getattr(v, "name", v))[:70])
def test_every_command_is_understood(page, line, monkeypatch, tmp_path, capsys):
    """It is read by the command's own parser, with the recipe or space that it names; nothing runs."""
    command, *words = shlex.split(line)[1:]
    assert command in COMMANDS, f"{page.name}: no command {command}"
    if command == "submit" or not words:
        return  # its own words are read with the cluster's, and the rest are those of run and sweep

    def reading(read):
        def parse(*args, **kwargs):
            read(*args, **kwargs)
            raise Parsed

        return parse

    (tmp_path / "classes.txt").write_text("bike\nmug\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFADAPT_SPACES", str(ROOT / "tune_spaces"))
    for module, name in ((tyro, "cli"), (tyro.extras, "subcommand_cli_from_dict")):
        monkeypatch.setattr(module, name, reading(getattr(module, name)))
    try:
        code = main([command, *words])
    except Parsed:
        return
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err.strip()
    if words[-1].startswith("--help"):
        assert code == 0, f"{page.name}: {line}\n{said}"
        return
    # What was understood, and lacks what only a user has.
    assert code == 2 and re.search(r"[Tt]here is no|Give the", said), f"{page.name}: {line}\n{said}"


def test_there_are_commands_to_check():
    assert len(COMMANDS_SHOWN) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {target}"


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    found = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M
    )
    plain = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", head)).strip().lower() for head in found)
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 200


def test_every_make_target_that_is_named_exists():
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = {n for b in blocks(text) for n in re.findall(r"^make ([a-z-]+)", b, re.M)}
        named |= set(re.findall(r"`make ([a-z-]+)`", text))
        assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_every_error_stands_on_its_page():
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == sentences.page(), (
        "python -m tests.docs --write"
    )
    total = sum(map(len, sentences.sentences().values()))
    assert total > 700


def test_sentences_are_read_as_they_are_raised():
    import ast

    tree = ast.parse('raise DataError(f"{count} images of {self.name!r} are" + " not there: give others.")')
    assert list(sentences.raised(tree)) == [
        ("DataError", "<count> images of <name> are not there: give others.")
    ]


def test_hours_are_those_that_plan_counts():
    """One setting of each system, on one device: all of them take ten times as long."""
    only = ("sda/imagenet_w/resnet50", "zodi/cityscapes_gta5")
    page = (DOCS / "cost.md").read_text(encoding="utf-8").splitlines()
    column = 3 + cost.DEVICES.index("A100")
    for title, recipe, memory, hours in cost.rows(["A100"], only):
        (line,) = (line for line in page if line.startswith(f"| {title} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == recipe and cells[column] == hours
        assert memory.partition(" ")[0] <= cells[2].partition(" ")[0]  # on other devices other precisions
