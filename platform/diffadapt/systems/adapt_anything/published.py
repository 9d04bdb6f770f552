"""Published averages of unsupervised domain adaptation, quoted beside a run's scores and never mixed into
them."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def settings(benchmark: str) -> Mapping[str, Any]:
    """With what the figures of a benchmark were made: ``backbone``, ``training``, ``methods`` (name -> what
    differs from the method's defaults) and, if not all, the ``domains`` of its transfers; empty where nothing
    is known. From the scripts of Transfer-Learning-Library (examples/domain_adaptation/image_classification).
    """
    return _read()["settings"].get(benchmark, {})


def published_training(benchmark: str, **changes: Any) -> Any:
    """Stage 1 (UdaConfig) with the published settings of a benchmark, a method's own length among them;
    ``changes`` are other fields."""
    known = settings(benchmark)
    methods = {name: METHODS[name](**values) for name, values in known["methods"].items()}
    return UdaConfig(**known["training"], **methods, **changes)


def note() -> str:
    """What has to be said beside these figures."""
    return _read()["note"]


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
