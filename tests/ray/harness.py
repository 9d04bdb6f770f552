"""Runs a toy pipeline to its end with a runner, as the driver does, and compares stores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diffadapt.core.artifact import Receipt
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.schedule import finished, next_wave
from diffadapt.core.store import Store
from diffadapt.run.runner import Runner


@dataclass
class Outcome:
    receipts: list[Receipt] = field(default_factory=list)
    progress: list[tuple] = field(default_factory=list)

    def failed(self) -> list[Receipt]:
        return [r for r in self.receipts if r.status == "failed"]

    def made(self) -> list[str]:
        return [f"{r.node}/{r.key}" for r in self.receipts if r.status == "made"]


def run(
    pipeline: Pipeline, root: Path, runner: Runner, on_receipt: Callable[[Receipt], None] | None = None
) -> Outcome:
    """Waves until nothing is missing or something failed; ``runner`` must be prepared."""
    store, outcome = Store(str(root)), Outcome()
    store.prepare()
    plans = pipeline.plan(store)
    stages = {name: plan.stage for name, plan in plans.items()}

    def receive(receipt: Receipt) -> None:
        outcome.receipts.append(receipt)
        if on_receipt is not None:
            on_receipt(receipt)

    while wave := next_wave(plans, finished(plans, store)):
        if wave.chains:
            runner.run_chains(wave.chains, stages, store, receive)
        if wave.fits and not outcome.failed():
            runner.run_fits(
                wave.fits,
                stages,
                store,
                str(root) + "-logs",
                receive,
                lambda *news: outcome.progress.append(news),
            )
        if outcome.failed():
            break
    return outcome


def contents(root: Path) -> dict[str, str]:
    """Every committed file and its digest; temporary files of killed writers and checkpoints do not count."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".tmp-" not in p.name and not p.relative_to(root).parts[0].startswith(".")
    }
