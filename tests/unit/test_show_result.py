"""What the end of a run looks like on a screen: the table in sight, few findings under it, nothing cut."""

from __future__ import annotations

import io
import json
import sys

import pytest
from reportkit import fake_run

from diffadapt.commands.common import SHOWN, show_result
from diffadapt.core import terminal
from diffadapt.report.compare import compare
from diffadapt.report.findings import findings
from tests.unit.test_collapse import finished


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path):
    run = fake_run(tmp_path)
    warned = [{"node": "a", "sentence": f"Look at {i}."} for i in range(5)]
    run.write("warnings.json", json.dumps(warned).encode())
    run.write("report.html", b"")
    return run


def printed(run, monkeypatch, columns: int, stream) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", stream)
    show_result(run)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("columns", [80, 184])
def test_the_table_is_followed_by_three_findings_and_where_the_rest_is(run, monkeypatch, columns):
    known = findings(run.scores(), manifest=run.manifest())
    assert len(known) > SHOWN
    lines = printed(run, monkeypatch, columns, Screen())
    last_row = max(i for i, line in enumerate(lines) if line.startswith(" Source, twice"))
    below = lines[last_row + 1 :]
    said = [line for line in below if line.startswith("  ") and not line.startswith("    ")]
    assert len(said) == SHOWN + 1 and " ".join(" ".join(below).split()).endswith("report.html")
    assert f"{len(known) - SHOWN} more findings and 2 more warnings:" in said[-1]
    assert all(len(line) <= columns for line in below if "report.html" not in line)
    text = " ".join(" ".join(below).split())
    remarks = [k for k in known if k.startswith("Remark:")]
    for sentence in [*remarks, *(k for k in known if k not in remarks)][:SHOWN]:
        assert sentence in text, "nothing is cut"
    order = [
        next(i for i, x in enumerate(lines) if x.startswith(w)) for w in ("  Warning:", "run  ", " method")
    ]
    assert order == sorted(order) and "\x1b" not in "".join(lines), "NO_COLOR"


def test_elsewhere_a_sentence_stays_on_one_line(run, monkeypatch):
    lines = printed(run, monkeypatch, 80, io.StringIO())
    known = findings(run.scores(), manifest=run.manifest())
    assert any(line.strip() in known and len(line) > 80 for line in lines)


def test_without_a_report_nothing_is_left_out(run, monkeypatch):
    run.remove("report.html")
    text = "\n".join(printed(run, monkeypatch, 80, io.StringIO()))
    assert all(f in text for f in findings(run.scores(), manifest=run.manifest()))
    assert "more" not in text.rpartition("Source, twice")[2] and "Look at 4." in text


def test_a_collapsed_row_is_the_first_thing_under_the_table_and_compare_says_it(tmp_path, monkeypatch):
    run = finished(tmp_path)
    lines = printed(run, monkeypatch, 200, Screen())
    under = lines[max(i for i, line in enumerate(lines) if line.startswith(" one")) :]
    said = next(line for line in under if line.startswith("  "))
    assert said.startswith("  Warning: gone has collapsed: it predicts 'bike' for all 60 images")
    assert "A: gone has collapsed: it predicts 'bike'" in " ".join(compare([run, run], colour=False).split())


def test_what_a_screen_can_show(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.coloured(Screen()) and terminal.redrawn(Screen())
    assert not terminal.coloured(io.StringIO()) and not terminal.redrawn(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.coloured(Screen()) and terminal.redrawn(Screen())
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.redrawn(Screen())
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal.columns() == 77
    assert terminal.cut("abcdefgh", 8) == "abcdefgh" and terminal.cut("abcdefghi", 8) == "abcde..."
    assert terminal.wrapped("see /a/very-long/path-of-a/run", 20) == "  see\n    /a/very-long/path-of-a/run"
