"""What a user sees while it runs."""

from __future__ import annotations

import io
import re

import pytest

from diffadapt.core.artifact import Failure, Receipt
from diffadapt.core.units import format_seconds
from diffadapt.run.progress import NodeProgress, Progress


def receipt(status: str = "made", items: int = 10, failures=(), seconds: float = 2.0) -> Receipt:
    return Receipt("synth", "k", "d", status, items, tuple(failures), seconds)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("diffadapt.run.progress.time.monotonic", lambda: now[0])
    return now


def test_lines_say_shards_rate_time_left_and_quarantine(clock):
    progress = Progress({"synth": NodeProgress(4, 40, hits=1)}, stream=io.StringIO())
    progress.receipt(receipt())
    clock[0] += 2.0
    progress.receipt(receipt(failures=[Failure("a", "b")]))
    line = " ".join(progress.line("synth").split())
    assert line == "synth 3/4 shards 1 from the store 5.0 images/s 2 s left 1 quarantined"
    clock[0] += 2.0
    progress.receipt(receipt())
    assert "left" not in progress.line("synth")
    assert progress.nodes["synth"].as_dict() == {
        "shards": 4,
        "done": 3,
        "hits": 1,
        "failed": 0,
        "items": 40,
        "quarantined": 1,
        "step": 0,
        "steps": 0,
        "note": "",
        "images_per_second": 5.0,
        "seconds_left": None,
    }


def test_log_lines_are_rare_and_the_last_one_always_comes(clock):
    stream = io.StringIO()
    progress = Progress({"synth": NodeProgress(100, 100)}, stream=stream)
    for _ in range(100):
        clock[0] += 0.1
        progress.receipt(receipt(items=1, seconds=0.1))
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 4 and lines[-1].split()[1] == "100/100"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that stand there now; also checks that none is wider than the terminal."""
        lines, row, column = [""], 0, 0
        for text in re.findall(r"\x1b\[[AJ]|[\r\n]|[^\r\n\x1b]+", self.getvalue()):
            if text == "\x1b[A":
                assert row, "above the first line"
                row -= 1
            elif text == "\x1b[J":
                lines[row:] = [lines[row][:column]]
            elif text == "\r":
                column = 0
            elif text == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row][:column] + text + lines[row][column + len(text) :]
                column += len(text)
        return lines


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_terminal_has_running_stages_above_one_bar_and_finished_ones_stay(clock, terminal):
    nodes = {"synth": NodeProgress(2, 20), "fit": NodeProgress(1, 5), "last": NodeProgress(3, 30, each=4.0)}
    progress = Progress(nodes, stream=terminal)
    progress.begin()
    assert terminal.screen() == ["[>                       ]   0 %  0/6 shards"]
    progress.receipt(receipt())
    clock[0] += 1
    progress.fit("fit", 0, 10, {"loss": 0.5})
    clock[0] += 2
    progress.fit("fit", 2, 10, {"loss": 0.4})
    *above, bar = terminal.screen()
    assert [line.split()[0] for line in above] == ["synth", "fit"] and "8 s left" in above[1]
    assert bar == "[===>                    ]  15 %  1/6 shards  about 22 s left"
    progress.receipt(receipt())
    first, *_, bar = terminal.screen()
    assert first.split() == ["synth", "2/2", "shards", "5.0", "s", "4.0", "images/s"] and bar.startswith("[")
    progress.say("Look here.")
    assert terminal.screen()[1] == "warning: Look here." and terminal.screen()[-1].startswith("[")
    progress.close()
    assert terminal.screen() == [first, "warning: Look here.", ""]
    progress.close()


def test_the_time_left_is_of_all_stages_and_says_when_some_are_not_known(clock, terminal):
    nodes = {"a": NodeProgress(4, 40), "b": NodeProgress(6, 60, each=10.0), "c": NodeProgress(1, 1)}
    progress = Progress(nodes, stream=terminal)
    for _ in range(2):  # two workers: four seconds of work in two
        progress.nodes["a"].first = progress.nodes["a"].first or clock[0]
        clock[0] += 1.0
        progress.receipt(Receipt("a", "k", "d", "made", 10, (), 2.0))
    assert progress.seconds_left() == (2 * 2.0 / 2 + 6 * 10.0 / 2, False)
    assert "at least 32 s left" in progress.whole()
    nodes["c"].each = 4.0
    assert "about 34 s left" in progress.whole() and progress.share() == pytest.approx(4 / (8 + 60 + 4))


def test_no_line_is_wider_than_the_terminal_and_many_stages_are_counted(clock, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    names = [f"a_stage_with_a_name_that_is_long_{i}" for i in range(8)]
    progress = Progress({n: NodeProgress(2, 20) for n in names}, stream=terminal)
    for name in names:
        clock[0] += 1
        progress.receipt(Receipt(name, "k", "d", "made", 10, (), 1.0))
    clock[0] += 1
    progress.receipt(Receipt(names[0], "k", "d", "made", 10, (), 1.0))
    lines = terminal.screen()
    assert all(len(line) < 40 for line in lines) and lines[0].endswith("...")
    assert "  and 2 more stages" in lines and len(lines) == 1 + 5 + 1 + 1


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_dumb_terminal_gets_lines(clock, terminal, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    progress = Progress({"synth": NodeProgress(2, 20), "b": NodeProgress(1, 1)}, stream=terminal)
    progress.begin()
    progress.receipt(receipt())
    assert ("\x1b" in terminal.getvalue() or "[>" in terminal.getvalue()) == (term == "xterm")


def test_a_log_line_has_the_time_left_of_all(clock):
    stream = io.StringIO()
    progress = Progress({"synth": NodeProgress(2, 20), "b": NodeProgress(1, 1, each=5.0)}, stream=stream)
    progress.receipt(receipt())
    assert " ".join(stream.getvalue().split()).endswith("(of all: 1/3 shards about 7 s left)")


@pytest.mark.parametrize(
    ("shards", "seconds", "said"),
    [
        (1, 0.0003, "0.00 s"),  # not 33333.3 images/s
        (4, 3.0, "9 s left"),  # one shard of four, with all that begins a stage: not its rate
        (1, 4.0, "4.0 s 2.5 images/s"),
        (1, 75.0, "1 min 15 s 0.1 images/s"),
    ],
)
def test_a_rate_is_of_a_stages_work_and_of_some_seconds_of_it(clock, shards, seconds, said):
    progress = Progress({"synth": NodeProgress(shards, 10 * shards)}, stream=io.StringIO())
    progress.receipt(receipt(seconds=seconds))
    assert " ".join(progress.line("synth").split()) == f"synth 1/{shards} shards {said}"


def test_fits_show_steps_and_loss(clock):
    progress = Progress({"fit": NodeProgress(1, 5)}, stream=io.StringIO())
    progress.fit("fit", 3, 10, {"loss": 0.5})
    assert " ".join(progress.line("fit").split()) == "fit step 3/10 loss 0.5000"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (18720, "5 h 12 min")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text
