"""Prompts stage: a table of prompts by class, the first artefact of Adapt Anything (section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import PROMPT_SCHEMA, Rows, Shard
from diffadapt.core.errors import DataError
from diffadapt.core.identity import digest
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.class_names import check_class_names
from diffadapt.models.weights import revision
from diffadapt.prompts.config import PromptConfig
from diffadapt.prompts.prompts import check_prompts, prompt_warnings, source_of
from diffadapt.prompts.sources.base import PromptSource
from diffadapt.prompts.text import prompt_key


@dataclass(frozen=True)
class Prompts(Stage):
    """``prompt_count(config)`` prompts for each class, in rows of PROMPT_SCHEMA; ``domain`` describes the
    target in words.

    A shard holds ``config.block`` consecutive prompts of ``classes_per_shard`` consecutive classes, and
    depends on these classes' names alone: more prompts or more classes make the missing shards. Prompts that
    the bank wrote in place of a language model say so in their ``source``; prompts.prompt_warnings
    turns these into sentences.
    """

    config: PromptConfig = PromptConfig()
    class_names: tuple[str, ...] = ()
    domain: str = ""
    classes_per_shard: int = 8
    seed: int = 0

    kind = "prompts"
    may_warn = True

    @property
    def source(self) -> PromptSource:
        return source_of(self.config, self.domain, self.seed)

    def label(self) -> str:
        return self.source.label

    def identity(self) -> dict[str, Any]:
        return self.source.identity()

    def revisions(self) -> dict[str, str]:
        weights = self.source.weights
        return {"llm": revision(weights)} if weights else {}

    def resources(self) -> str:
        return "gpu" if self.source.weights else "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        check_class_names(self.class_names, "The class list")
        check_prompts(c, self.class_names, self.domain)
        shards = []
        source = self.source
        count = source.count
        for start in range(0, count, c.block):
            stop = min(start + c.block, count)
            for first in range(0, len(self.class_names), self.classes_per_shard):
                last = min(first + self.classes_per_shard, len(self.class_names))
                names = self.class_names[first:last]
                params = {
                    "start": start,
                    "stop": stop,
                    "first_class": first,
                    "last_class": last,
                    "names": list(names),
                }
                if source.by_content:
                    params["content"] = _content(source, names, start, stop)
                key = f"p{start:06d}-{stop:06d}-c{first:04d}-{last:04d}"
                shards.append(Shard(key, params, (), (stop - start) * len(names)))
        return shards

    def open(self, context: WorkContext) -> _PromptWriter:
        return _PromptWriter(self, context)


class _PromptWriter:
    def __init__(self, stage: Prompts, context: WorkContext):
        self.source = stage.source
        self.source.open(context.device)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        source, p = self.source, shard.params
        start, stop = p["start"], p["stop"]
        if source.by_content and _content(source, p["names"], start, stop) != p["content"]:
            raise DataError(
                f"The prompt file {source.config.file} has changed since the run was planned: run the same"
                " command again."
            )
        written = source.write(p["names"], start, stop)
        rows = [
            {
                "key": prompt_key(label, k),
                "label": label,
                "index": k,
                "category": name,
                "prompt": text,
                "source": source,
            }
            for label, name, prompts in zip(
                range(p["first_class"], p["last_class"]), p["names"], written, strict=True
            )
            for k, (text, source) in zip(range(start, stop), prompts, strict=True)
        ]
        return Rows(_table(rows), warnings=prompt_warnings(rows))


def _content(source: PromptSource, names: Sequence[str], start: int, stop: int) -> str:
    return digest([source.prompts(name, start, stop) for name in names])


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=PROMPT_SCHEMA)
