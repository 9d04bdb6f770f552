"""Drive a pipeline to its end: waves of missing work, the failure rule, manifest, scores and report.

The driver holds no results: everything finished is in the store, so a driver that dies is replaced by running the same
command again.
"""

from __future__ import annotations

import json
import os
import posixpath
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from diffadapt.core import manifest as manifests
from diffadapt.core.artifact import Receipt
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DiffadaptError, StoreError, TrainingError
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.runs import PLANNED, Root, Run, run_name
from diffadapt.core.schedule import Wave, finished, next_wave
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store, redact
from diffadapt.run.families import describe_families
from diffadapt.run.finish import finish
from diffadapt.run.heartbeat import Heartbeat
from diffadapt.run.progress import NodeProgress, Progress
from diffadapt.run.quarantine import Quarantine
from diffadapt.run.runner import Runner

FATAL = ("WeightsError", "RecipeError", "ResourceError", "DataError")
"""Errors that the next shard would meet too: the run stops at the first."""
FAILURES_IN_A_ROW = 3
"""Failed shards without a finished one between them after which the run stops instead of failing at every shard."""


def drive(recipe_name: str, recipe: Any, pipeline: Pipeline, root: Root, runner_factory: Any, *, progress: Progress | None = None, overrides: Mapping[str, Any] | None = None) -> Run:
    """Make everything that is missing and write the run folder. ``runner_factory()`` is called only if work is left."""
    started = time.time()
    root.store.prepare()
    root.runs.prepare()
    plans = pipeline.plan(root.store)
    config = to_dict(recipe, identity_only=True)
    run = Run(root, run_name(recipe_name, manifests.run_digest(config, plans)))
    progress = progress or Progress({})
    progress.nodes = {n: NodeProgress(len(p.shards), p.items) for n, p in plans.items() if p.stage.stored}
    run.write("recipe.json", json.dumps({"recipe": recipe_name, "overrides": manifests.scrub(dict(overrides or {})), "config": manifests.scrub(to_dict(recipe))}, indent=1).encode())
    work = _Work(run, root.store, plans, progress, recipe.execution.max_failed_fraction)
    run.write(PLANNED, json.dumps([p.path for plan in plans.values() for p in plan.shards if p.path]).encode())
    for stale in ("quarantine.jsonl", "errors.log"):
        run.remove(stale)
    describe_families(root.store, plans)

    def beat() -> None:
        run.write_status("running", {n: p.as_dict() for n, p in progress.nodes.items()}, pid=os.getpid(), host=os.uname().nodename, started=started)

    state = "interrupted"
    try:
        with Heartbeat(beat):
            work.run(runner_factory)
        _record_execution(run, work, time.time() - started)
        finish(run, recipe_name, recipe.seed, config, pipeline, plans, work.quarantine.by_node())
        state = "finished"
    except Exception as error:
        state = "failed"
        work.error = str(error) if isinstance(error, DiffadaptError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        try:
            if state != "finished":
                _record_execution(run, work, time.time() - started)
            run.write_status(state, {n: p.as_dict() for n, p in progress.nodes.items()}, started=started, error=manifests.scrub(work.error))
        except StoreError:
            pass  # the error that brought us here is the one to report
    return run


class _Work:
    def __init__(self, run: Run, store: Store, plans: Mapping[str, NodePlan], progress: Progress, max_failed: float):
        self.run_folder, self.store, self.plans, self.progress = run, store, plans, progress
        self.made: dict[str, int] = defaultdict(int)
        self.batch_sizes: dict[str, int] = {}
        self.quarantine = Quarantine(plans, store, max_failed)
        self.errors: list[Receipt] = []
        self._row = 0
        self.runner_name = "none"
        self.error = ""

    def run(self, runner_factory: Any) -> None:
        stages = {name: plan.stage for name, plan in self.plans.items()}
        log_dir = posixpath.join(self.run_folder.url, "tensorboard")
        runner: Runner | None = None
        done = finished(self.plans, self.store)
        if self.quarantine.recall(done):
            done = finished(self.plans, self.store)
            self.quarantine.recall(done)
        self._count_hits(done)
        try:
            while wave := next_wave(self.plans, done):
                if runner is None:
                    runner = runner_factory()
                    self.runner_name = runner.name
                    runner.prepare()
                self.errors.clear()
                self._one_wave(runner, wave, stages, log_dir)
                done = finished(self.plans, self.store)
                self._demand(wave, done)
        finally:
            if runner is not None:
                runner.close()
            if lines := self.quarantine.jsonl():
                self.run_folder.write("quarantine.jsonl", lines)

    def _one_wave(self, runner: Runner, wave: Wave, stages: Mapping, log_dir: str) -> None:
        if wave.chains:
            runner.run_chains(wave.chains, stages, self.store, self._receipt)
        if wave.fits and not self.errors:
            runner.run_fits(wave.fits, stages, self.store, log_dir, self._receipt, self.progress.fit)

    def _receipt(self, receipt: Receipt) -> None:
        self.progress.receipt(receipt)
        if receipt.status == "made":
            self.made[receipt.node] += 1
            if receipt.batch_size:
                self.batch_sizes[receipt.node] = min(receipt.batch_size, self.batch_sizes.get(receipt.node, receipt.batch_size))
        for sentence in receipt.warnings:
            self.progress.say(f"{receipt.node}: {sentence}")
        self._row = self._row + 1 if receipt.status == "failed" else 0
        if receipt.status == "failed":
            self.errors.append(receipt)
            if self._row >= FAILURES_IN_A_ROW or receipt.error.partition(": ")[0] in FATAL:
                self._raise_first()
        self.quarantine.add(receipt)

    def _demand(self, wave: Wave, done: set[str]) -> None:
        if self.errors:
            self._raise_first()
        expected = {t.digest for c in wave.chains for t in c.tasks} | {t.digest for t in wave.fits}
        lost = expected - done
        if lost:
            raise StoreError(f"{len(lost)} shards were reported made but are not in the store {redact(self.store.root)}: workers and driver must see the same --root (a shared folder or an object store).")

    def _raise_first(self) -> None:
        """Raise the first failed shard's error, of its own kind, with the evidence in errors.log."""
        first = self.errors[0]
        text = first.error.split("\n", 1)
        lines = (f"{e.node} {e.key}: {e.error}" for e in self.errors)
        self.run_folder.write("errors.log", redact("\n\n".join(lines)).encode())
        kind, _, sentence = text[0].partition(": ")
        hint = "" if len(text) == 1 else f" This is not your input's fault; the traceback is in {redact(self.run_folder.url)}/errors.log."
        others = f" ({len(self.errors)} shards failed; finished ones are kept.)" if len(self.errors) > 1 else ""
        known = {c.__name__: c for c in DiffadaptError.__subclasses__()}
        raise known.get(kind, TrainingError)(f"{first.node}: {sentence if kind in known else text[0]}{hint}{others}")

    def _count_hits(self, done: set[str]) -> None:
        for name, node in self.progress.nodes.items():
            node.hits = sum(p.digest in done for p in self.plans[name].shards)


def _record_execution(run: Run, work: _Work, seconds: float) -> None:
    """Add this attempt to execution.json; one that made nothing leaves it as it is."""
    if not work.made and run.has("execution.json"):
        return
    try:
        known = json.loads(run.read("execution.json"))
    except (StoreError, ValueError):
        known = {}
    made = dict(known.get("made", {}))
    for node, count in work.made.items():
        made[node] = made.get(node, 0) + count
    value = {
        "runner": work.runner_name, "seconds": known.get("seconds", 0.0) + seconds, "attempts": known.get("attempts", 0) + 1,
        "made": made, "batch_sizes": {**known.get("batch_sizes", {}), **work.batch_sizes},
    }  # fmt: skip
    run.write("execution.json", json.dumps(value, indent=1).encode())
