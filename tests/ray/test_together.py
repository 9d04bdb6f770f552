"""Chains and fits at once: when each begins, whose thread hears of it, and whose error ends it. No Ray."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from diffadapt.core.artifact import Receipt, Shard
from diffadapt.core.schedule import Chain, Task
from diffadapt.orchestrate.resources import Layout, Share, leave_one
from diffadapt.orchestrate.together import run_together
from diffadapt.run.executor import failed


def task(digest: str) -> Task:
    return Task("node", Shard(digest, {}, (), 1), digest, digest, ())


@dataclass
class Scene:
    """A chain ``c``, the fit ``f`` that its shard makes possible, and a chain ``d`` that needs the fit; the
    pool stays at work until the fit has begun, if ``beside``."""

    beside: bool
    begun: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    fit_began: threading.Event = field(default_factory=threading.Event)

    def chains(self) -> Sequence[Chain]:
        return [Chain((task(d),)) for d, needs in (("c", set()), ("d", {"f"})) if self._give(d, needs)]

    def fit(self) -> Task | None:
        return task("f") if self._give("f", {"c"}) else None

    def fits_to_come(self) -> int:
        return 1

    def _give(self, digest: str, needs: set[str]) -> bool:
        possible = digest not in self.given and needs <= self.made
        self.given |= {digest} if possible else set()
        return possible

    def pool(self, chains: Sequence[Chain], tell) -> None:
        for chain in chains:
            digest = chain.tasks[0].digest
            self.begun.append(digest)
            tell(failed(chain.tasks[0], ""))
            if digest == "c" and self.beside:
                assert self.fit_began.wait(20), "the fit waits for the pool's end"
            self.begun.append(f"end of {digest}")

    def fits(self, fits: Sequence[Task], tell, go_on) -> None:
        self.fit_began.set()
        self.begun += [t.digest for t in fits]
        go_on("node", 1, 1, {})
        tell(failed(fits[0], ""))

    def hear(self, receipt: Receipt) -> None:
        self.threads.add(threading.get_ident())
        self.made.add(receipt.digest)

    def run(self) -> None:
        told = []
        run_together(self, self.pool, self.fits, self.beside, self.hear, lambda *news: told.append(news))
        assert told == [("node", 1, 1, {})] and self.threads == {threading.get_ident()}
        assert self.made == {"c", "d", "f"}


def test_a_fit_begins_while_the_pool_works_or_after_it() -> None:
    beside, apart = Scene(True), Scene(False)
    beside.run()
    assert beside.begun.index("f") < beside.begun.index("end of c")
    apart.run()
    assert apart.begun == ["c", "end of c", "f", "d", "end of d"]


def test_an_error_of_a_thread_or_a_receipt_is_raised_here() -> None:
    def broken(*rest) -> None:
        raise ValueError("the pool is gone")

    scene = Scene(True)
    with pytest.raises(ValueError, match="the pool is gone"):
        run_together(scene, broken, scene.fits, True, scene.hear, broken)
    scene = Scene(False)
    with pytest.raises(ValueError, match="the pool is gone"):
        run_together(scene, scene.pool, scene.fits, False, broken, broken)


@pytest.mark.parametrize(("device", "actors", "left"), [("cuda", 64, 63), ("cuda", 7, 7), ("cpu", 64, 64)])
def test_a_large_pool_on_gpus_leaves_one_to_the_fits(device: str, actors: int, left: int) -> None:
    share = Share(0.1, 1.0 if device == "cuda" else 0.0)
    assert leave_one(Layout(device, share, actors, share, 1, 4, 1)).actors == left
