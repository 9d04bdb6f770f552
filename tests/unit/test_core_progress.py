"""What a user sees while it runs."""

from __future__ import annotations

import io

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


def test_a_terminal_gets_one_live_line_that_hides_the_longer_one_before(clock):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress({"synth": NodeProgress(2, 20)}, stream=stream)
    progress.receipt(receipt())
    clock[0] += 1
    progress.receipt(receipt())
    first, last = stream.getvalue().split("\r")[1:]
    assert "\n" not in first and last.endswith("\n") and len(last.rstrip("\n")) >= len(first)


def test_fits_show_steps_and_loss(clock):
    progress = Progress({"fit": NodeProgress(1, 5)}, stream=io.StringIO())
    progress.fit("fit", 3, 10, {"loss": 0.5})
    assert " ".join(progress.line("fit").split()) == "fit step 3/10 loss 0.5000"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (18720, "5 h 12 min")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text
