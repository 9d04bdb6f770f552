"""The folder of a sweep: ``<root>/sweeps/<space>-<recipe>-<digest>/`` with its trials, table and report."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import LostError, StoreError
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.manifest import run_config
from diffadapt.core.redact import scrub
from diffadapt.core.runs import Root, Run
from diffadapt.core.store import Store, safe_name
from diffadapt.sweeps.result import TrialResult, from_json
from diffadapt.sweeps.space import Space
from diffadapt.sweeps.trials import Trial

RESULT = "result.json"
"""What came of a trial, in its folder: written when it has ended."""


def sweep_name(space_name: str, space: Space, recipes: Mapping[str, Any]) -> str:
    """The folder's name. More trials of a random or optuna search, and execution settings, leave it as it is:
    they go on from it."""
    search = {k: v for k, v in to_dict(space.search, identity_only=True).items() if k != "trials"}
    axes = {name: [type(axis).__name__, to_dict(axis)] for name, axis in space.axes.items()}
    what = {
        "axes": axes,
        "base": to_dict(space.base),
        "search": search,
        "recipes": {n: run_config(r) for n, r in recipes.items()},
    }
    first = next(iter(recipes)) if len(recipes) == 1 else f"{len(recipes)}-recipes"
    return f"{safe_name(space_name.replace('/', '-'))}-{safe_name(first.replace('/', '-'))}-{digest(what, 8)}"


class Sweep(Run):
    """A sweep's folder, a :class:`Run` for status, logs and warnings; ``name`` as :func:`sweep_name` gives
    it."""

    def __init__(self, root: Root, name: str):
        super().__init__(root, name, root.sweeps)

    def describe(
        self,
        space_name: str,
        space: Space,
        recipes: Sequence[str],
        overrides: Mapping[str, Any],
        economy: Sequence[Any] = (),
    ) -> None:
        """Write sweep.json: what is searched, how, and what it saves."""
        value = {
            "space": space_name,
            "recipes": list(recipes),
            "overrides": dict(overrides),
            "search": to_dict(space.search),
            "base": to_dict(space.base),
            "axes": {
                name: {"kind": type(axis).__name__.lower(), "fields": space.fields(name), **to_dict(axis)}
                for name, axis in space.axes.items()
            },
            "economy": [asdict(e) for e in economy],
        }
        self.write("sweep.json", json.dumps(scrub(value), indent=1).encode())

    def description(self) -> dict[str, Any]:
        """What :meth:`describe` wrote; StoreError when there is no such sweep or it is damaged."""
        try:
            return dict(parse(self.read("sweep.json")))
        except (ValueError, TypeError):
            raise StoreError(
                f"sweep.json of {self.name} is damaged: run the sweep again to rewrite it; finished trials"
                " are kept."
            ) from None

    @property
    def trials(self) -> Store:
        """The folders of its trials."""
        return self.place.below(posixpath.join(self.name, "trials"))

    def trial(self, trial: Trial | str) -> Run:
        """The folder of one trial: a run folder like any other."""
        name = trial if isinstance(trial, str) else trial.id
        return Run(self.root, name, self.trials)

    def record(self, result: TrialResult) -> None:
        self.trial(result.id).write(
            RESULT, json.dumps(scrub(json.loads(result.to_json())), indent=1).encode()
        )

    def results(self) -> list[TrialResult]:
        """Every trial that has ended, by number; one whose file is damaged counts as open."""
        result = []
        for name in sorted(self.trials.list("")):
            try:
                result.append(from_json(self.trial(name).read(RESULT)))
            except (LostError, ValueError, KeyError, TypeError):
                continue
        return sorted(result, key=lambda r: (r.number, r.id))


def sweeps(root: Root) -> list[str]:
    """Names of the sweeps under a root."""
    return sorted(n for n in root.sweeps.list("") if not n.startswith((".", "store.json")))
