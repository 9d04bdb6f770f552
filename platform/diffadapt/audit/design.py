"""The images of an audit: which were chosen, with which probability, and under which names they are
labelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.audit.answers import Answers
from diffadapt.core.errors import DataError, StoreError
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.runs import Run
from diffadapt.metrics.audit_sample import draw, strata

FEWEST, MOST = 10, 1000
"""How many images an audit may have."""
FORMAT = 1


@dataclass(frozen=True)
class Chosen:
    """One image: the ``name`` of its file, which says nothing of its class; its key in the store; its stratum
    and its probability of being chosen."""

    name: str
    key: str
    stratum: int
    probability: float


@dataclass(frozen=True)
class Design:
    """One audit. ``id`` is of the run, the rows and the sample; ``sizes``: images of each stratum; ``group``:
    the transfer that is audited, "" for all rows."""

    id: str
    run: str
    seed: int
    sizes: tuple[int, ...]
    chosen: tuple[Chosen, ...]
    group: str = ""

    def to_json(self) -> bytes:
        value = {
            "format": FORMAT,
            "id": self.id,
            "run": self.run,
            "seed": self.seed,
            "group": self.group,
            "strata": list(self.sizes),
            "images": [[c.name, c.key, c.stratum, c.probability] for c in self.chosen],
        }
        return json.dumps(value, indent=1).encode()


def file_of(audit: str) -> str:
    """The name in the run's folder of an audit's design."""
    return f"audits/{audit}.json"


def strata_of(answers: Answers) -> np.ndarray:
    """The stratum of every image."""
    return strata(answers.confidence, answers.disagreement, answers.doubt)


def choose(answers: Answers, run: str, n: int, seed: int = 0, group: str = "") -> Design:
    """``n`` images to label, all where the target has fewer. Raises DataError for n out of FEWEST..MOST."""
    if not FEWEST <= n <= MOST:
        raise DataError(f"--n is {n}, but an audit labels {FEWEST} to {MOST} images; 50 to 100 take minutes.")
    stratum = strata_of(answers)
    sample = draw(stratum, answers.doubt, n, seed)
    audit = digest([run, n, seed, _print(answers, stratum)], 8)
    width = max(len(str(len(sample.chosen))), 3)
    chosen = tuple(
        Chosen(f"{audit}-{i:0{width}d}", answers.keys[k], int(stratum[k]), float(p))
        for i, (k, p) in enumerate(zip(sample.chosen, sample.probability, strict=True), 1)
    )
    return Design(audit, run, seed, tuple(sample.sizes.tolist()), chosen, group)


def _print(answers: Answers, stratum: np.ndarray) -> str:
    """A digest of what was chosen from."""
    return digest([list(answers.keys), stratum.tolist()])


def load(run: Run, audit: str) -> Design:
    """The design of an audit of ``run``. Raises DataError where the run has none of that id, StoreError where
    it is damaged."""
    if not run.has(file_of(audit)):
        raise DataError(
            f"The labels are of the audit {audit}, which is none of the run {run.name}: give --run the run"
            f" whose"
            " images were labelled."
        )
    try:
        value: Mapping[str, Any] = parse(run.read(file_of(audit)))
        chosen = tuple(Chosen(str(n), str(k), int(h), float(p)) for n, k, h, p in value["images"])
        group = str(value.get("group", ""))
        return Design(value["id"], value["run"], int(value["seed"]), tuple(value["strata"]), chosen, group)
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"The audit {audit} of {run.name} is damaged: make it again with the same --n and --seed."
        ) from None


def places(design: Design, answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(stratum of every image (N,), place of every chosen image (n,)). Raises DataError where the predictions
    of the run are no longer those that were chosen from."""
    stratum = strata_of(answers)
    at = {key: i for i, key in enumerate(answers.keys)}
    found = [at.get(c.key, -1) for c in design.chosen]
    same = tuple(np.bincount(stratum).tolist()) == design.sizes
    if not same or any(i < 0 or stratum[i] != c.stratum for i, c in zip(found, design.chosen, strict=True)):
        raise DataError(
            f"The predictions of {design.run} are not those that the audit {design.id} chose from: make a"
            f" new audit"
            " (--out)."
        )
    return stratum, np.array(found)
