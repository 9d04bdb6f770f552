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
from diffadapt.prompts.prompts import (
    check_prompts,
    make_prompts,
    prompt_count,
    prompt_identity,
    prompt_key,
    prompt_warnings,
)


@dataclass(frozen=True)
class Prompts(Stage):
    """``prompt_count(config)`` prompts for each class, in rows of PROMPT_SCHEMA; ``domain`` describes the
    target in words.

    A shard holds ``config.block`` consecutive prompts of ``classes_per_shard`` consecutive classes, and
    depends on these classes' names alone: more prompts or more classes make the missing shards. Prompts that
    the bank wrote in place of a language model say so in their ``source``; synth.prompts.prompt_warnings
    turns these into sentences.
    """

    config: PromptConfig = PromptConfig()
    class_names: tuple[str, ...] = ()
    domain: str = ""
    classes_per_shard: int = 8
    seed: int = 0

    kind = "prompts"
    may_warn = True

    def label(self) -> str:
        if self.config.source != "llm":
            return self.config.source
        return self.config.llm.model.rstrip("/").replace("\\", "/").split("/")[-1]

    def identity(self) -> dict[str, Any]:
        return prompt_identity(self.config, self.domain, self.seed)

    def revisions(self) -> dict[str, str]:
        return {"llm": revision(self.config.llm.model)} if self._in_process() else {}

    def resources(self) -> str:
        return "gpu" if self._in_process() else "cpu"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        c = self.config
        check_class_names(self.class_names, "The class list")
        check_prompts(c, self.class_names, self.domain)
        shards = []
        count = prompt_count(c)
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
                if c.source == "file":
                    params["content"] = self._content(names, start, stop)
                shards.append(
                    Shard(
                        f"p{start:06d}-{stop:06d}-c{first:04d}-{last:04d}",
                        params,
                        (),
                        (stop - start) * len(names),
                    )
                )
        return shards

    def open(self, context: WorkContext) -> _PromptWriter:
        return _PromptWriter(self, context)

    def _in_process(self) -> bool:
        return self.config.source == "llm" and self.config.llm.backend == "transformers"

    def _content(self, names: Sequence[str], start: int, stop: int) -> str:
        return digest(
            [make_prompts(self.config, name, self.domain, start, stop, self.seed) for name in names]
        )


class _PromptWriter:
    def __init__(self, stage: Prompts, context: WorkContext):
        self.stage = stage
        self.llm = None
        if stage.config.source == "llm":
            from diffadapt.prompts.llm import open_llm

            self.llm = open_llm(stage.config, context.device)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        stage, p = self.stage, shard.params
        start, stop = p["start"], p["stop"]
        if stage.config.source == "file" and stage._content(p["names"], start, stop) != p["content"]:
            raise DataError(
                f"The prompt file {stage.config.file} has changed since the run was planned: run the same"
                " command again."
            )
        if self.llm is not None:
            written = self.llm.write(p["names"], stage.domain, start, stop, stage.seed)
        else:
            written = [
                [
                    (text, stage.config.source)
                    for text in make_prompts(stage.config, n, stage.domain, start, stop, stage.seed)
                ]
                for n in p["names"]
            ]
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


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=PROMPT_SCHEMA)
