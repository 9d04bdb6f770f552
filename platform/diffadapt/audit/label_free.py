"""The label-free scores by which a run's rows could have been chosen: those that the run recorded, else
computed from its logits."""

from __future__ import annotations

import numpy as np

from diffadapt.audit.answers import Answers
from diffadapt.core.record import ensemble_logits, predictions_by_key
from diffadapt.core.runs import Run
from diffadapt.metrics.validators import of_logits
from diffadapt.report.provenance import optional_json

NAMES = ("entropy", "im", "bnm", "corrc")


def label_free(run: Run, answers: Answers) -> dict[str, dict[str, float]]:
    """Row -> validator -> score (higher is better) of the rows that are no controls and answered on all
    images of their group."""
    known = (optional_json(run, "validators.json").get("nodes")) or {}
    main = [a for a in answers.answers if not a.row.control]
    if known:
        return {
            a.title: dict(known[a.row.members[0]])
            for a in main
            if len(a.row.members) == 1 and a.row.members[0] in known
        }
    nodes = run.manifest()["nodes"]
    most = max((len(a.places) for a in main), default=0)
    out = {}
    for a in main:
        if len(a.places) < most or a.row.group:
            continue  # on other images, of which a score says something else
        parts = []
        for node in a.row.members:
            logits = predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[node]["shards"]])
            parts.append(logits)
        keys = [answers.keys[i] for i in a.places]
        logits = ensemble_logits([np.stack([part[k][1] for k in keys]) for part in parts])
        out[a.title] = {name: of_logits(name, logits) for name in NAMES}
    return out
