"""A swept field as tables and charts see it: its values in order, their brief texts, and where they lie on a
scale."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffadapt.report.provenance import shown

DISCRETE = 8
"""A range with at most so many different values is drawn like a choice."""


@dataclass(frozen=True)
class Axis:
    """One swept field. ``values``: those that trials have, numbers ascending, others as the space lists them.
    ``log``: drawn on a logarithmic scale; ``discrete``: few values, each a place of its own; ``counts``: the
    number of images or prompts.
    """

    name: str
    label: str
    fields: tuple[str, ...]
    values: tuple[Any, ...]
    numeric: bool
    log: bool
    discrete: bool
    counts: bool

    def text(self, value: Any) -> str:
        """A value as brief text that no other value of the axis has."""
        text = short(value)
        return text if self.numeric or self._texts[text] < 2 else shown(value)

    @cached_property
    def _texts(self) -> Counter[str]:
        return Counter(short(v) for v in self.values)

    def brief(self, value: Any, length: int) -> str:
        """:meth:`text` in at most ``length`` characters: the beginning, or the end where the beginnings of
        two values are alike."""
        text = self.text(value)
        if len(text) <= length:
            return text
        alike = sum(self.text(v)[: length - 1] == text[: length - 1] for v in self.values) > 1
        return "…" + text[-(length - 1) :] if alike else text[: length - 1] + "…"

    def place(self, value: Any) -> float:
        """Where a value lies on the axis, 0 to 1: evenly spaced for discrete values, to scale for ranges."""
        if self.discrete:
            return self.index(value) / (len(self.values) - 1) if len(self.values) > 1 else 0.5
        low, high = self.number(self.values[0]), self.number(self.values[-1])
        return (self.number(value) - low) / (high - low) if high > low else 0.5

    def index(self, value: Any) -> int:
        return next((i for i, v in enumerate(self.values) if same(v, value)), 0)

    def number(self, value: Any) -> float:
        """The value as a coordinate: a number or its logarithm, else its place in the order."""
        if not self.numeric:
            return float(self.index(value))
        return math.log(value) if self.log else float(value)


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b if isinstance(a, bool) or isinstance(b, bool) else a == b


def short(value: Any, length: int = 28) -> str:
    """A value as brief text; of a long one (a path) the end."""
    text = f"{value:.4g}" if isinstance(value, float) else shown(value)
    return text if len(text) <= length else "…" + text[-(length - 1) :]


def make_axis(
    name: str, label: str, fields: tuple[str, ...], info: Mapping[str, Any], seen: Sequence[Any]
) -> Axis:
    """The axis ``name`` from what sweep.json says of it and the values that trials have."""
    distinct = list({json.dumps(v, sort_keys=True): v for v in seen}.values())
    numeric = bool(distinct) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in distinct
    )
    order = {json.dumps(v, sort_keys=True): i for i, v in enumerate(info.get("values") or ())}
    values = (
        sorted(distinct)
        if numeric
        else sorted(distinct, key=lambda v: order.get(json.dumps(v, sort_keys=True), len(order)))
    )
    counts = numeric and any(
        word in part
        for f in (*fields, name)
        for part in [f.rpartition(".")[2]]
        for word in ("images", "prompts", "image_count", "prompt_count")
    )
    span = values[-1] / values[0] if numeric and values[0] > 0 else 0
    log = numeric and values[0] > 0 and (bool(info.get("log")) or span >= (4 if counts else 10))
    choice = info.get("kind") == "choice"
    return Axis(
        name,
        label,
        fields,
        tuple(values),
        numeric,
        log,
        choice or len(values) <= DISCRETE or not numeric,
        counts,
    )


def make_labels(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, with more of it where two would be equal."""
    result = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            label = ".".join(parts[-length:])
            if sum(other.split(".")[-length:] == parts[-length:] for other in names) == 1:
                break
        result[name] = label.replace("_", " ")
    return result
