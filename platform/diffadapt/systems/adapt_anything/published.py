"""Published averages of unsupervised domain adaptation, quoted beside a run's scores and never mixed into
them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffadapt.methods.uda.config import METHODS, UdaConfig


@dataclass(frozen=True)
class PublishedAverage:
    """``value``: average accuracy over the benchmark's transfers in percent (VisDA-2017: mean of the classes'
    accuracies)."""

    benchmark: str
    model: str
    method: str
    value: float
    source: str


def published(benchmark: str, model: str | None = None) -> list[PublishedAverage]:
    """The rows of a benchmark (a name of data/benchmarks.py), of one model ('ResNet-50', ...) or of all;
    empty where none are known."""
    values = _read()
    return [
        PublishedAverage(
            benchmark, place.split("/")[1], row["method"], value, values["sources"][row["source"]]
        )
        for row in values["rows"]
        for place, value in row["values"].items()
        if place.split("/")[0] == benchmark and model in (None, place.split("/")[1])
    ]


def settings(benchmark: str, source: str = "tllib") -> Mapping[str, Any]:
    """With what the figures of a ``source`` on a benchmark were made: ``backbone`` (or several),
    ``training``, ``methods`` (name -> what differs from the method's defaults), if not all, the ``domains``
    of its transfers, and ``titles`` that tables give a method otherwise; empty where nothing is known.

    tllib: the scripts of Transfer-Learning-Library (examples/domain_adaptation/image_classification).
    cdtrans: those of CDTrans' authors (scripts/, configs/pretrain.yml and uda.yml), who start from distilled
    DeiT.
    """
    return _read()["settings"][source].get(benchmark, {})


def backbones(known: Mapping[str, Any]) -> list[str]:
    """The backbones of published :func:`settings`."""
    found = known.get("backbone", [])
    return [found] if isinstance(found, str) else list(found)


def nearest(name: str, theirs: Sequence[str]) -> tuple[str, bool]:
    """(the one of ``theirs`` nearest to ``name``, whether they differ by distillation at most)."""
    body = name.partition("_patch")[0].removesuffix("_distilled")
    same = [b for b in theirs if b.partition("_patch")[0].removesuffix("_distilled") == body]
    return (same or [*theirs, ""])[0], bool(same)


def settings_of(benchmark: str, method: str) -> tuple[str, str] | None:
    """(source, name of the method's file) of the settings with which a row of published tables was made; None
    where they are not known."""
    for source in _read()["settings"]:
        known = settings(benchmark, source)
        names = {n: n for n in known.get("methods", ())}
        names |= {METHODS[n].title.lower(): n for n in names}
        names |= {title.lower(): n for title, n in known.get("titles", {}).items()}
        if method.lower() in names:
            return source, names[method.lower()]
    return None


def other_titles(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title there, title here) of methods that a source names otherwise, where the run has a backbone of
    that source's."""
    found = []
    for source in _read()["settings"]:
        known = settings(str(config.get("benchmark") or ""), source)
        if nearest(str((config.get("backbone") or {}).get("name")), backbones(known))[1]:
            found += [(title, METHODS[name].title) for title, name in known.get("titles", {}).items()]
    return found


def published_training(benchmark: str, source: str = "tllib", **changes: Any) -> Any:
    """Stage 1 (UdaConfig) with the published settings of a benchmark, a method's own length among them;
    ``changes`` are other fields."""
    known = settings(benchmark, source)
    methods = {name: METHODS[name](**values) for name, values in known["methods"].items()}
    return UdaConfig(**known["training"], **methods, **changes)


def note() -> str:
    """What has to be said beside these figures."""
    return _read()["note"]


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
