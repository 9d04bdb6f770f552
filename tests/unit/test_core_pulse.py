"""Whether a process gets on: what moves, and what stands still while its threads live."""

from __future__ import annotations

import threading
import time

import pytest

from diffadapt.core.pulse import Pulse


def looked_at(work, looks: int = 20) -> list[bool]:
    """What looks at a thread that does ``work`` see, after the first; ``work`` gets an event that ends it."""
    stop, seen = threading.Event(), []
    working = threading.Thread(target=work, args=(stop,), daemon=True)

    def look() -> None:
        pulse = Pulse()
        pulse.thread = working.ident or 0
        assert pulse.moved(), "the first look knows nothing else"
        for _ in range(looks):
            time.sleep(0.01)
            seen.append(pulse.moved())

    working.start()
    time.sleep(0.05)
    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    looker.join()
    stop.set()
    working.join()
    return seen


def _calls(stop: threading.Event) -> None:
    while not stop.is_set():
        sorted(range(1000), key=lambda i: -i)


def _one_call(stop: threading.Event) -> None:
    """Nearly all of the time goes into one call at one place, as a batch does in a large product."""
    batch = 0
    while not stop.is_set():
        time.sleep(0.005)
        batch += 1


@pytest.mark.parametrize("work", [_calls, _one_call])
def test_work_moves(work) -> None:
    assert any(looked_at(work))


def test_a_wait_does_not_although_its_thread_lives_and_others_wake_up() -> None:
    def service(stop: threading.Event) -> None:
        while not stop.wait(0.005):
            _ = time.monotonic()

    stop = threading.Event()
    threading.Thread(target=service, args=(stop,), daemon=True).start()
    try:
        seen = looked_at(lambda until: until.wait(20))
        assert not any(seen[10:]), "a wait for what never comes"  # at first this test's own thread moves
    finally:
        stop.set()
