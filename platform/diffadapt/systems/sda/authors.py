"""What the authors' own scripts run, flag by flag, and what a recipe has otherwise; from their public code
(authors.json names repository, commit and file)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffadapt.core.units import number

ABSENT = object()


@dataclass(frozen=True)
class Setting:
    """One of the authors' settings: ``said`` in ``file``; ``value`` is that of our ``field``, ``paper`` the
    paper's where it has another than the code (else the same). ``rows``: the rows that depend on it."""

    field: str
    value: Any
    paper: Any
    said: str
    file: str
    rows: tuple[str, ...]


def settings(model: str | None) -> list[Setting]:
    """All that the scripts say of ``model`` as the paper calls it ('ResNet-50', ...; None: of any)."""
    return [
        Setting(field, value[1], value[-1], value[0], group["file"], tuple(group["rows"]))
        for group in _read()["groups"]
        if model in group.get("models", (model,))
        for field, value in group["settings"].items()
    ]


def repository() -> str:
    """The authors' repository and the commit that was read."""
    return f"{_read()['repository']}, {_read()['commit']}"


def beyond() -> tuple[str, ...]:
    """Sentences on what differs from the authors' run and is no setting here."""
    return tuple(_read()["beyond"])


def unlike(config: Mapping[str, Any], model: str | None, row: str, given: Mapping[str, Any]) -> list[str]:
    """What a recipe's values (nested, as JSON) have otherwise than a published figure of ``row``: 'field
    value for theirs', by code or paper. ``given``: what the figure has by itself (dotted field -> value)."""
    out = []
    for s in settings(model):
        mine = value_of(config, s.field)
        wanted = (given[s.field],) if s.field in given else (s.value, s.paper)
        if row in s.rows and mine not in (*wanted, ABSENT):
            out.append(f"{s.field} {_word(mine)} for {_word(wanted[0])}")
    return out


def remarks(config: Mapping[str, Any], model: str | None) -> list[str]:
    """Sentences for `show`: every setting that is not the scripts', and what no setting says."""
    differing = [
        f"{s.field} {_word(mine)}, theirs {_word(s.value)} ({s.said})"
        for s in settings(model)
        if (mine := value_of(config, s.field)) not in (s.value, ABSENT)
    ]
    return [*differing, *beyond()]


def value_of(config: Mapping[str, Any], field: str) -> Any:
    """The value of a dotted field; ABSENT where there is none."""
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return ABSENT  # a manifest has no execution fields, and older ones lack later fields
        value = value[name]
    return list(value) if isinstance(value, tuple) else value


def _word(value: Any) -> str:
    return " ".join(map(number, value)) if isinstance(value, list) else number(value)


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "authors.json").read_text(encoding="utf-8"))
