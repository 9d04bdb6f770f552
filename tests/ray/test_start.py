"""Ray's own start on a machine that is too busy for its fixed time: tried once more, then said."""

from __future__ import annotations

from typing import Any

import pytest

from diffadapt.core.errors import ResourceError
from diffadapt.orchestrate import connection
from diffadapt.run.runner import ExecutionConfig

SLOW = Exception(
    "The current node timed out during startup. This could happen because some of the raylet failed to"
    " startup or the GCS has become overloaded."
)


class Start:
    """Stands for ray.init: raises what it is given, call by call; a node that it leaves is found by its
    frame."""

    def __init__(self, *errors: Exception | None):
        self.errors, self.ended = list(errors), []

    def init(self, **_: Any) -> None:
        if error := self.errors.pop(0):
            Half(self.ended).start(error)


class Half(connection.Node):
    def __init__(self, ended: list):
        self.ended = ended

    def start(self, error: Exception) -> None:
        raise error

    def kill_all_processes(self, *_: Any, **__: Any) -> None:
        self.ended.append(self)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    def go(*errors: Exception | None) -> tuple[Start, connection.Connection]:
        start, made = Start(*errors), connection.Connection(ExecutionConfig(device="cpu"))
        monkeypatch.setattr(connection.ray, "init", start.init)
        monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        try:
            made.open()
        finally:
            made.close()
        return start, made

    return go


def test_a_start_that_was_too_slow_is_tried_again(opened) -> None:
    start, made = opened(SLOW, None)
    assert not start.errors and made.own and len(start.ended) == 1, "what the first one left is ended"


def test_a_second_one_is_said(opened) -> None:
    with pytest.raises(ResourceError, match="too slow to come up, twice .*less busy") as caught:
        opened(SLOW, SLOW)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_tried_again(opened) -> None:
    with pytest.raises(ResourceError, match="could not be started on this machine: no such option"):
        opened(ValueError("no such option"))
