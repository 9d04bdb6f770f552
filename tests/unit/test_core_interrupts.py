"""An interruption that a library turns into its own error is still an interruption."""

from __future__ import annotations

import os
import signal

import pytest

from diffadapt import cli
from diffadapt.core import interrupts
from diffadapt.core.errors import WeightsError
from diffadapt.core.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_interrupt_and_are_remembered(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupts():
        interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert interrupts.seen()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before
    interrupts.check()  # what came before is over
    with Interrupts():
        assert not interrupts.seen()


def test_the_command_line_tells_it_from_a_damaged_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import diffadapt.commands.recipes as recipes

    def swallow(argv: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise WeightsError("The checkpoint cannot be read (ValueError).") from None
        return 0

    monkeypatch.setattr(recipes, "ls", swallow)
    assert cli.main(["ls"]) == 130
    assert "Interrupted" in capsys.readouterr().err
