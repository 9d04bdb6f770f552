"""Published figures, kept apart from anything measured here: they are quoted with their table and never mixed
into scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffadapt.core.errors import RecipeError, suggest

MODELS = {
    "ResNet-50": r"(?<![a-z0-9])(?<!wide_)resnet[-_]?50(?![a-z0-9])",
    "Swin-T": r"(?<![a-z0-9])swin[-_]?t(iny)?(?![a-z0-9])",
    "Swin-B": r"(?<![a-z0-9])swin[-_]?b(ase)?(?![a-z0-9])",
    "ConvNeXt-T": r"(?<![a-z0-9])convnext[-_]?t(iny)?(?![a-z0-9])",
    "ConvNeXt-B": r"(?<![a-z0-9])convnext[-_]?b(ase)?(?![a-z0-9])",
}
"""The paper's model -> how timm, OpenMMLab and file names spell it."""
MAIN_TABLES = {"imagenet-c": "1", "imagenet-w": "2"}


@dataclass(frozen=True)
class Published:
    """One published number: ``value`` is top-1 accuracy in percent; ``source`` names paper and table; ``row``
    is what our tables call the row, ``given`` what its column has by itself (dotted field -> value)."""

    table: str
    source: str
    benchmark: str
    model: str
    method: str
    value: float
    row: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=1)
def _paper() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


def benchmarks() -> dict[str, str]:
    """Benchmark name -> what is averaged."""
    return dict(_paper()["benchmarks"])


def citation() -> dict[str, str]:
    """Title and short name of the paper."""
    return dict(_paper()["paper"])


def titles() -> dict[str, str]:
    """Table -> what it is about."""
    return {t["table"]: t["title"] for t in _paper()["tables"]}


def cost() -> dict[str, Any]:
    """Table 3 as printed: hours by model, on which devices, at which size."""
    return dict(_paper()["cost"])


def models(benchmark: str) -> list[str]:
    """Models that the paper reports on ``benchmark``, in its order."""
    return list(dict.fromkeys(p.model for p in published(benchmark)))


def published(benchmark: str, model: str | None = None, table: str | None = None) -> list[Published]:
    """The paper's rows on ``benchmark`` ('imagenet-c', 'imagenet-w') for ``model`` ('ResNet-50', ...; None:
    all).

    ``table`` '1', '2', '4', '5', '6' or '8' gives that table's rows only. RecipeError for an unknown
    benchmark or model.
    """
    if benchmark not in _paper()["benchmarks"]:
        raise RecipeError(
            f"The paper has no benchmark {benchmark!r}: it reports"
            f" {', '.join(_paper()['benchmarks'])}.{suggest(benchmark, _paper()['benchmarks'])}"
        )
    rows = [r for r in _all() if r.benchmark == benchmark]
    known = list(dict.fromkeys(r.model for r in rows))
    if model is not None and model not in known:
        raise RecipeError(
            f"The paper has no model {model!r} on {benchmark}: it reports"
            f" {', '.join(known)}.{suggest(model, known)}"
        )
    return [r for r in rows if (model is None or r.model == model) and (table is None or r.table == table)]


@lru_cache(maxsize=1)
def _all() -> tuple[Published, ...]:
    short = _paper()["paper"]["short"]
    return tuple(
        Published(
            t["table"],
            f"{short}, Table {t['table']}",
            benchmark,
            model,
            method,
            value,
            *row,
        )
        for t in _paper()["tables"]
        for benchmark, by_model in t["values"].items()
        for model, values in by_model.items()
        for method, value, row in zip(t["methods"], values, t["rows"], strict=True)
        if value is not None
    )


def match(recipe: str, config: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """(benchmark, model or None) of the paper that a run stands beside, or None.

    The target's kind decides the benchmark, and for configs without one the recipe's name; the classifier's
    name (a timm name or an architecture) decides the model.
    """
    target = config.get("target")
    kind = target.get("kind") if isinstance(target, Mapping) else None
    if kind is None:
        kind = next(
            (b for b in MAIN_TABLES if b.replace("-", "") in re.sub(r"[^a-z]", "", recipe.lower())), None
        )
    if kind not in MAIN_TABLES:
        return None
    classifier = config.get("classifier")
    names = (
        [str(classifier.get(k) or "") for k in ("arch", "name", "weights")]
        if isinstance(classifier, Mapping)
        else [str(classifier or "")]
    )
    return kind, next((m for n in [*names, recipe] if (m := _model(n))), None)


def _model(name: str) -> str | None:
    tail = name.lower().rstrip("/").split("/")[-1]
    return next((model for model, pattern in MODELS.items() if re.search(pattern, tail)), None)
