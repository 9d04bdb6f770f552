"""Drive a pipeline to its end: waves of missing work, the failure rule, manifest, scores and report.

The driver holds no results: everything finished is in the store, so a driver that dies is replaced by running
the same command again.
"""

from __future__ import annotations

import json
import os
import posixpath
import time
from collections.abc import Mapping
from typing import Any

from diffadapt.core import manifest as manifests
from diffadapt.core.config import to_dict
from diffadapt.core.errors import DiffadaptError, LostError, StoreError
from diffadapt.core.files import clear_scratch
from diffadapt.core.foreign import parse
from diffadapt.core.lease import alone
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.plan import notes
from diffadapt.core.redact import scrub
from diffadapt.core.runs import PLANNED, STAGES, Root, Run, run_name
from diffadapt.core.stage import NodePlan
from diffadapt.run.families import describe_families
from diffadapt.run.finish import finish
from diffadapt.run.heartbeat import Heartbeat
from diffadapt.run.logs import parameters, track_begin, track_run
from diffadapt.run.progress import NodeProgress, Progress
from diffadapt.run.work import Work
from diffadapt.train.trackers.base import demand_trackers


def drive(
    recipe_name: str,
    recipe: Any,
    pipeline: Pipeline,
    root: Root,
    runner_factory: Any,
    *,
    progress: Progress | None = None,
    overrides: Mapping[str, Any] | None = None,
    run: Run | None = None,
) -> Run:
    """Make everything that is missing and write the run folder. ``runner_factory()`` is called only if work
    is left.

    ``run`` is the folder where it is not the recipe's own (a trial's); it gets the scores but no copy of the
    model and no report.
    """
    started, brief = time.time(), run is not None
    demand_trackers(recipe.execution.trackers)
    root.store.prepare()
    root.runs.prepare()
    clear_scratch()
    plans = pipeline.plan(root.store)
    config = manifests.run_config(recipe)
    digest = manifests.run_digest(config, plans)
    run = run or Run(root, run_name(recipe_name, digest))
    told = parameters(recipe_name, digest, config)
    progress = progress or Progress({})
    progress.nodes = {n: NodeProgress(len(p.shards), p.items) for n, p in plans.items() if p.stage.stored}
    if not brief:
        for sentence, node in notes(plans).items():
            progress.say(f"{node}: {sentence}")
    with alone(run.place, run.name, f"The run {run.name}", lambda s: progress.say(s, "")):
        run.unseal()
        run.write(
            "recipe.json",
            json.dumps(
                {
                    "recipe": recipe_name,
                    "overrides": scrub(dict(overrides or {})),
                    "config": scrub(to_dict(recipe)),
                },
                indent=1,
            ).encode(),
        )
        work = Work(run, root.store, plans, progress, recipe.execution.max_failed_fraction)
        run.write(
            PLANNED, json.dumps([p.path for plan in plans.values() for p in plan.shards if p.path]).encode()
        )
        run.write(STAGES, json.dumps(scrub(_described(pipeline, plans))).encode())
        for stale in ("quarantine.jsonl", "errors.log"):
            run.remove(stale)
        describe_families(root.store, plans)

        def beat() -> None:
            run.write_status(
                "running",
                {n: p.as_dict() for n, p in progress.nodes.items()},
                pid=os.getpid(),
                host=os.uname().nodename,
                started=started,
            )

        state = "interrupted"
        try:
            track_begin(run, recipe.execution.trackers, told)
            with Heartbeat(beat):
                work.run(runner_factory)
            _record_execution(run, work, time.time() - started)
            failures = work.quarantine.by_node()
            finish(run, recipe_name, recipe.seed, config, pipeline, plans, failures, brief=brief)
            run.seal()
            state = "finished"
        except Exception as error:
            state = "failed"
            kind = "" if isinstance(error, DiffadaptError) else f"{type(error).__name__}: "
            work.error = f"{kind}{error}"
            raise
        finally:
            try:
                if state != "finished":
                    _record_execution(run, work, time.time() - started)
                run.write_status(
                    state,
                    {n: p.as_dict() for n, p in progress.nodes.items()},
                    started=started,
                    error=scrub(work.error),
                )
                if state != "finished":
                    track_run(run, recipe.execution.trackers, told, state)
            except StoreError:
                pass  # the error that brought us here is the one to report
    if not brief:  # of a trial, whoever judges it tells the end
        track_run(run, recipe.execution.trackers, told)
    return run


def _described(pipeline: Pipeline, plans: Mapping[str, NodePlan]) -> dict[str, Any]:
    stages = {}
    for name, plan in plans.items():
        path, fit = (plan.shards[0].path if plan.shards else None) or "", plan.stage.fit_stage
        folder = path if fit else posixpath.dirname(path)
        stages[name] = {"kind": plan.stage.kind, "inputs": list(plan.inputs), "folder": folder, "fit": fit}
    return {"class_names": list(pipeline.class_names), "stages": stages}


def _record_execution(run: Run, work: Work, seconds: float) -> None:
    """Add this attempt to execution.json; one that made nothing leaves it as it is."""
    if not work.made and run.has("execution.json"):
        return
    try:
        known = parse(run.read("execution.json"))
    except (LostError, ValueError):
        known = {}
    made = dict(known.get("made", {}))
    for node, count in work.made.items():
        made[node] = made.get(node, 0) + count
    value = {
        "runner": work.runner_name,
        "seconds": known.get("seconds", 0.0) + seconds,
        "attempts": known.get("attempts", 0) + 1,
        "made": made,
        "batch_sizes": {**known.get("batch_sizes", {}), **work.batch_sizes},
    }
    run.write("execution.json", json.dumps(value, indent=1).encode())
