"""Whether a process gets on: what moves, and what stands still while its threads live."""

from __future__ import annotations

import threading
import time

from diffadapt.core.pulse import Pulse


def looked_at(work, looks: int = 40) -> list[bool]:
    """What looks at a thread that does ``work`` see, after the first; ``work`` gets an event that ends it."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    time.sleep(0.02)
    seen: list[bool] = []

    def look() -> None:
        pulse = Pulse()
        assert pulse.moved(), "the first look knows nothing else"
        for _ in range(looks):
            time.sleep(0.002)
            seen.append(pulse.moved())

    looker = threading.Thread(target=look)
    looker.start()
    looker.join()
    stop.set()
    thread.join()
    return seen


def test_work_moves_and_a_wait_does_not_although_its_thread_lives() -> None:
    def working(stop: threading.Event) -> None:
        while not stop.is_set():
            sum(i * i for i in range(50))
            time.sleep(0)

    assert any(looked_at(working))
    assert not any(looked_at(lambda stop: stop.wait(20))), "a wait for what never comes"
