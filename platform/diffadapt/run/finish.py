"""The end of a run: everything that a user sees is written from what lies in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffadapt.core import ledger, record
from diffadapt.core import manifest as manifests
from diffadapt.core.artifact import Failure
from diffadapt.core.pipeline import Pipeline
from diffadapt.core.plan import notes
from diffadapt.core.redact import scrub
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.metrics.collapse import Tally, collapsed
from diffadapt.report.own.class_shares import FILE as CLASS_SHARES
from diffadapt.report.own.collapsed import FILE as COLLAPSED
from diffadapt.report.own.diversity import FILE as DIVERSITY
from diffadapt.report.own.label_free import FILE as LABEL_FREE
from diffadapt.report.own.other_classes import FILE as OTHER_CLASSES
from diffadapt.report.own.without_labels import FILE as WITHOUT_LABELS
from diffadapt.run.class_shares import shares_of
from diffadapt.run.device_hours import FILE as DEVICE_HOURS
from diffadapt.run.device_hours import device_hours
from diffadapt.run.diversity import of_store
from diffadapt.run.fit import recorded_metrics
from diffadapt.run.label_free import label_free
from diffadapt.run.network_calls import FILE as NETWORK_CALLS
from diffadapt.run.network_calls import network_calls
from diffadapt.run.other_classes import others_of
from diffadapt.run.scores import reader, scores_of
from diffadapt.run.without_labels import without_labels


def finish(
    run: Run,
    recipe_name: str,
    seed: int,
    config: Mapping[str, Any],
    pipeline: Pipeline,
    plans: Mapping[str, NodePlan],
    quarantined: Mapping[str, Sequence[Failure]],
    *,
    brief: bool = False,
) -> None:
    """Write manifest, scores, warnings, predictions, pictures, the adapted model and the report of a run
    whose work is done.

    ``brief``: manifest, scores, warnings, validators and the diversity of synthetic images alone.
    """
    root = run.root
    manifest = manifests.build(recipe_name, config, seed, pipeline, plans, quarantined)
    if (decisions := decisions_of(pipeline, plans, root.store)) is not None:
        manifest["decisions"] = scrub(decisions)
    run.write("manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
    tallies: list[Tally] = []
    scores = scores_of(run.name, seed, pipeline, plans, root.store, tallies)
    run.write("scores.parquet", record.to_bytes(scores))
    _write_collapsed(run, pipeline, tallies)
    run.write("warnings.json", json.dumps(scrub(_warnings(plans, root.store)), indent=1).encode())
    if node := pipeline.outputs.get("validators"):
        run.write(
            "validators.json",
            Sealed(root.store, plans[node].shards[0].path or "").read("validators.json"),
        )
    if (varied := of_store(root.store, manifest, plans, synthetic_only=brief)) is not None:
        run.write(DIVERSITY, json.dumps(varied, indent=1).encode())
    if brief:
        return
    load = reader(plans, root.store)
    views = {
        WITHOUT_LABELS: without_labels(manifest, load),
        CLASS_SHARES: shares_of(
            manifest, load, lambda n: recorded_metrics(root.store, plans[n].shards[0].path or "")
        ),
        OTHER_CLASSES: others_of(manifest, load),
        LABEL_FREE: label_free(manifest, load, scores),
        NETWORK_CALLS: network_calls(pipeline, plans, root.store, load),
    }
    for file, view in views.items():
        if view is not None:
            run.write(file, json.dumps(view, indent=1).encode())
    took = device_hours(manifest, ledger.by_digest(root.ledger))
    run.write(DEVICE_HOURS, json.dumps(took, indent=1).encode())
    if node := pipeline.outputs.get("predictions"):
        from diffadapt.core.predictions import predictions_parquet

        run.write("predictions.parquet", predictions_parquet(load(node), pipeline.class_names))
    figures = pipeline.outputs.get("figures")
    if figures:
        folder = Sealed(root.store, plans[figures].shards[0].path or "")
        for file, data in folder.contents(lambda f: f.endswith((".png", ".json", ".jpg")) and "/" not in f):
            run.write(f"figures/{file}", data)
    if node := pipeline.outputs.get("model"):
        from diffadapt.run.outputs import copy_model

        copy_model(run, node)
    from diffadapt.report.html import write_report

    write_report(run)


def _write_collapsed(run: Run, pipeline: Pipeline, tallies: Sequence[Tally]) -> None:
    """The rows that predict (nearly) one class; an empty file takes the place of one that no longer holds."""
    cases = collapsed(tallies)
    if cases or run.has(COLLAPSED):
        found = {"classes": list(pipeline.class_names), "cases": cases} if cases else {}
        run.write(COLLAPSED, json.dumps(scrub(found), indent=1).encode())


def decisions_of(pipeline: Pipeline, plans: Mapping[str, NodePlan], store: Store) -> Any:
    """What quality control decided on every image (decisions.json of ``outputs["quality"]``); None without
    one."""
    node = pipeline.outputs.get("quality")
    return Sealed(store, plans[node].shards[0].path or "").read_json("decisions.json") if node else None


def _warnings(plans: Mapping[str, NodePlan], store: Store) -> list[dict[str, str]]:
    """What the data and finished stages had to say, each sentence once: [{"node", "sentence"}]."""
    result = notes(plans)
    for name, plan in plans.items():
        stage, paths = plan.stage, [p.path or "" for p in plan.shards]
        if not stage.stored:
            continue
        if stage.fit_stage:
            said = [s for path in paths for s in recorded_metrics(store, path).get("warnings", ())]
        else:
            said = [s for header in store.headers(paths) for s in header.warnings] if stage.may_warn else []
        for sentence in said:
            result.setdefault(sentence, name)
    return [{"node": node, "sentence": sentence} for sentence, node in result.items()]
