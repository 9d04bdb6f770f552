"""Pictures of a run, as its shards are committed: in small parts, each within a bounded time."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffadapt.core.errors import MissingError, StoreError, suggest
from diffadapt.core.identity import digest
from diffadapt.data.image import decode, encode_jpeg, encode_png, stored_size
from diffadapt.prompts.text import prompt_index, prompt_key
from diffadapt.report.panels import fit_size
from diffadapt.ui.work import RunFacts, Shelved, Workshop

PAGE = 60
MOST = 240
"""Pictures of one answer."""
SAMPLED = 6
"""Pictures of each shard in a sample."""
SECONDS = 0.35
"""After so long an answer says what it has found, and where the next one goes on."""
ORDERS = ("sample", "newest", "planned")
GOLDEN = 0.6180339887498949
REASONS = {
    "unreadable": "unreadable",
    "blank": "blank",
    "near_duplicate": "a near-duplicate of another",
    "clip": "CLIP does not see its class",
}
"""What filters call an image that is left out, in words."""
SHOWN = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}
"""How files of formats begin that every browser shows."""
LARGEST = 256
"""Pixels of the longer side of what is shown in a grid."""


@dataclass(frozen=True)
class Wanted:
    """What to show: ``only``: '', 'kept' or 'out' (left out by a filter or quality control); ``text``: part
    of a key; ``label``: a class; ``after``: where the last answer ended."""

    order: str = "sample"
    only: str = ""
    text: str = ""
    label: int | None = None
    after: str = ""
    limit: int = PAGE


class Gallery:
    """The pictures of one stage of a run."""

    def __init__(self, workshop: Workshop, facts: RunFacts, stage: str):
        if stage not in facts.stages:
            raise MissingError(f"The run has no stage {stage!r}.{suggest(stage, facts.stages)}")
        self.workshop, self.facts, self.stage = workshop, facts, facts.stages[stage]

    @cached_property
    def shelved(self) -> list[Shelved]:
        """What is there. StoreError where that is no images."""
        found = self.workshop.shelved(self.stage)
        if found and not self.workshop.holds_images(self.stage, found):
            raise StoreError(f"The stage {self.stage.name!r} holds no images.")
        return found

    @cached_property
    def judged(self) -> tuple[str, Mapping[str, dict[str, Any]]] | None:
        """(name of the stage, decisions) where one has judged these images."""
        for judge in self.facts.judges_of(self.stage.name):
            if (found := self.workshop.verdicts(judge)) is not None:
                return judge.name, found
        return None

    def page(self, wanted: Wanted) -> dict[str, Any]:
        """Up to ``limit`` pictures. ``next``: where to go on, empty at the end."""
        shards, end = _ordered(self.shelved, wanted.order), time.monotonic() + SECONDS
        path, _, row = wanted.after.rpartition("#")
        place = {posixpath.basename(s.path): i for i, s in enumerate(shards)}
        start, first = (place.get(path, 0), int(row or 0)) if path in place else (0, 0)
        found: list[dict[str, Any]] = []
        after, limit = "", max(1, min(wanted.limit, MOST))
        for i in range(start, len(shards)):
            name = posixpath.basename(shards[i].path)
            if len(found) >= limit or (i > start and time.monotonic() > end):
                after = f"{name}#0"
                break
            for n, picture in self._of(shards[i], wanted, first if i == start else 0):
                if len(found) >= limit:
                    after = f"{name}#{n}"
                    break
                found.append(picture)
            if after:
                break
        return {
            "stage": self.stage.name,
            "pictures": found,
            "next": after,
            "shards": len(self.shelved),
            "planned": len(self.stage.paths),
            "images": self._images(),
            "judge": self.judged[0] if self.judged else "",
            "left_out": self._left_out(),
        }

    def _images(self) -> int | None:
        known = self.stage.items
        return sum(known.get(s.path, 0) for s in self.shelved) if known else None

    def _left_out(self) -> list[list[Any]]:
        """[reason, how many], the most frequent first."""
        counts: dict[str, int] = {}
        for row in self.judged[1].values() if self.judged else ():
            if not row.get("kept"):
                counts[_why(row)] = counts.get(_why(row), 0) + 1
        return sorted(([w, n] for w, n in counts.items()), key=lambda pair: (-pair[1], pair[0]))

    def _of(self, shard: Shelved, wanted: Wanted, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
        there = self.workshop.columns_of(shard.path)
        names = tuple(n for n in ("key", "label", "seed", "accepted", "attempts") if n in there)
        columns = self.workshop.columns(shard.path, names)
        keys = columns["key"]
        labels = columns.get("label") or [None] * len(keys)
        verdicts = self.judged[1] if self.judged else {}
        good = [
            i
            for i, (key, label) in enumerate(zip(keys, labels, strict=True))
            if (not wanted.text or wanted.text in key)
            and (wanted.label is None or label == wanted.label)
            and (not wanted.only or (key in verdicts and verdicts[key]["kept"] == (wanted.only == "kept")))
        ]  # fmt: skip
        if wanted.order == "sample" and not (wanted.text or wanted.only or wanted.label is not None):
            good = _sample(good, max(SAMPLED, -(-PAGE // len(self.shelved))), _key_of(shard.path))
        for i in (g for g in good if g >= first):
            yield i, self._picture(shard, i, {n: c[i] for n, c in columns.items()}, verdicts.get(keys[i]))

    def _picture(
        self, shard: Shelved, row: int, values: Mapping[str, Any], verdict: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        label = values.get("label")
        names = self.facts.class_names
        picture = {
            "key": values["key"],
            "shard": posixpath.basename(shard.path),
            "row": row,
            "label": label,
            "class": names[label] if isinstance(label, int) and 0 <= label < len(names) else "",
            "when": shard.when,
        }
        if values.get("seed"):
            picture["seed"] = str(values["seed"])
        if prompt := self._prompts.get(values["key"]):
            picture["prompt"] = prompt
        if verdict is not None:
            picture["kept"] = bool(verdict["kept"])
            picture["reason"] = "" if verdict["kept"] else _why(verdict)
            if isinstance(p := verdict.get("clip_probability"), float):
                picture["clip"] = round(p, 4)
        elif values.get("accepted") is False:
            picture["kept"], picture["reason"] = False, "refused by quality control"
        if "annotation" in self.workshop.columns_of(shard.path):
            picture["annotation"] = True
        return picture

    @cached_property
    def _prompts(self) -> _Prompts:
        inputs = (self.facts.stages.get(name) for name in self.stage.inputs)
        stage = next((s for s in inputs if s and s.kind == "prompts"), None)
        shelved = self.workshop.shelved(stage) if stage else []
        key = ("prompts", stage.folder if stage else "", len(shelved))
        return self.workshop.texts.get(key, lambda: _Prompts(self.workshop, shelved))

    def image(self, shard: str, row: int, column: str = "image", small: bool = False) -> tuple[bytes, str]:
        """(bytes, media type) of one picture, as stored where a browser shows that. MissingError where there
        is none."""
        path = posixpath.join(self.stage.folder, shard)
        if column not in ("image", "annotation") or "/" in shard or path not in self.stage.paths:
            raise MissingError(f"The stage {self.stage.name!r} has no such picture.")
        table = self.workshop.rows(path).table
        if column not in table.column_names or not 0 <= row < table.num_rows:
            raise MissingError(f"The stage {self.stage.name!r} has no such picture.")
        stored = table.column(column)[row].as_py()
        if not stored or not stored["bytes"]:
            raise MissingError(f"The stage {self.stage.name!r} has no such picture.")
        data, key = stored["bytes"], str(table.column("key")[row])
        if column == "annotation":
            return encode_png(_colours()[decode(data, 1, key)[:, :, 0]]), "image/png"
        kind = next((k for start, k in SHOWN.items() if data.startswith(start)), "")
        if small and max(stored_size(data, key)) > LARGEST:
            return encode_jpeg(fit_size(decode(data, 3, key), smallest=1, largest=LARGEST), 85), "image/jpeg"
        return (data, kind) if kind else (encode_png(decode(data, 3, key)), "image/png")


class _Prompts:
    """Key of an image -> the prompt that it was made from."""

    def __init__(self, workshop: Workshop, shelved: Sequence[Shelved]):
        self.texts: dict[str, str] = {}
        self.count = 0
        for shard in shelved:
            columns = workshop.columns(shard.path, ("key", "index", "prompt"))
            self.texts.update(zip(columns["key"], columns["prompt"], strict=True))
            self.count = max([self.count, *(i + 1 for i in columns["index"])])

    def get(self, key: str) -> str:
        c, _, i = key.rpartition("/")[0].rpartition("/")[2], "", key.rpartition("/")[2]
        if not self.count or not (c[:1] == "c" and c[1:].isdigit() and i[:1] == "i" and i[1:].isdigit()):
            return ""
        return self.texts.get(prompt_key(int(c[1:]), prompt_index(int(i[1:]), self.count)), "")


def _why(row: Mapping[str, Any]) -> str:
    reason = str(row.get("reason") or "")
    return REASONS.get(reason, reason.replace("_", " ")) or "left out"


def _key_of(path: str) -> str:
    """A shard's name without its digest: that of the same shard of another stage or run."""
    return posixpath.basename(path).rpartition("-")[0]


def _sample(values: Sequence[int], n: int, name: str) -> list[int]:
    """``n`` of the values, evenly apart, beginning elsewhere in each shard, so that all classes come."""
    start = int(digest(name, 4), 16) / 16**4
    return sorted(sorted(values, key=lambda i: (i * GOLDEN + start) % 1.0)[:n])


def _ordered(shards: Sequence[Shelved], order: str) -> list[Shelved]:
    if order == "newest":
        return sorted(shards, key=lambda s: (-s.when, s.path))
    if order == "planned":
        return list(shards)
    # Multiples of the golden ratio, modulo 1, lie evenly however many of them are looked at.
    return [s for _, s in sorted((((i * GOLDEN) % 1.0, s) for i, s in enumerate(shards)), key=lambda p: p[0])]


def _colours() -> np.ndarray:
    """A colour for each class number (256, 3); 255, which counts nowhere, is black."""
    number = np.arange(256)[:, None]
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (number * GOLDEN + np.array([0.0, 1 / 3, 2 / 3])))
    table = np.round(40 + 215 * wave).astype(np.uint8)
    table[255] = 0
    return table
