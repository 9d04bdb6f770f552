"""Prompts written by a language model (Adapt Anything section 3): asked in groups, checked, cached, and the
bank as stand-in.

A shard's prompts are asked for in groups of ``llm.ask``, always whole ones, so that the k-th prompt of a
class does not depend on how many are asked for (``prompts_per_class``). A group is asked with ideas of its
own from the bank, which never repeats itself; what comes twice within a shard is left out and asked for
again. Groups of different shards know nothing of each other, so that shards can be made anywhere in any
order; the same prompt twice in a class is possible there, though the ideas make it unlikely.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.files import read_own, write_whole
from diffadapt.core.foreign import parse
from diffadapt.core.http import parsed
from diffadapt.core.identity import digest, item_seed
from diffadapt.core.local_cache import cache_home
from diffadapt.data.class_names import spoken
from diffadapt.prompts.answers import TEXT_VERSION, parse_answer, request_text, usable
from diffadapt.prompts.backends.base import Backend, Failed, Request, open_backend, public_endpoint
from diffadapt.prompts.sources.bank import Bank, BankSource, bank
from diffadapt.prompts.text import FALLBACK

IDEAS = 6
PAUSE = 1.0
"""Seconds before the first repetition of a failed request; doubled each time, up to 16."""
REST = 300.0
"""Seconds for which a model that gave no answer at all is not asked again: the bank writes meanwhile."""
TOKENS_PER_PROMPT = 60

log = logging.getLogger(__name__)


class LlmSource(BankSource):
    """A language model; the bank gives it ideas and stands in for what it does not write."""

    @property
    def label(self) -> str:
        return self.config.llm.model.rstrip("/").replace("\\", "/").split("/")[-1]

    @property
    def weights(self) -> str:
        return self.config.llm.model if self.config.llm.backend == "transformers" else ""

    def check(self, class_names: Sequence[str]) -> None:
        super().check(class_names)
        llm = self.config.llm
        if llm.ask < 1 or llm.temperature < 0 or llm.retries < 0 or llm.timeout <= 0:
            raise RecipeError(
                "prompts.llm: ask must be at least 1, temperature and retries not negative, timeout positive."
            )
        if not llm.model:
            raise RecipeError("prompts.llm.model is empty: name the language model.")
        if llm.backend == "openai" or llm.endpoint:
            if not llm.endpoint:
                raise RecipeError(
                    "prompts.llm.endpoint is empty: give the URL of an OpenAI-compatible endpoint up to /v1,"
                    " such as http://localhost:8000/v1."
                )
            parsed(llm.endpoint, "prompts.llm.endpoint")

    def identity(self) -> dict[str, Any]:
        llm = to_dict(self.config.llm, identity_only=True)
        llm["endpoint"] = public_endpoint(self.config.llm.endpoint)
        if self.weights:
            llm.pop("model")  # counts by its revision
            llm.pop("endpoint")
        return {**super().identity(), "llm": llm, "text": TEXT_VERSION, "block": self.config.block}

    def open(self, device: str) -> None:
        self.writer = PromptLlm(self.config, open_backend(self.config.llm, device))

    def write(self, names: Sequence[str], start: int, stop: int) -> list[list[tuple[str, str]]]:
        return self.writer.write(names, self.domain, start, stop, self.seed)


class PromptLlm:
    """Prompts by class from a language model, with the bank for those that it does not give."""

    def __init__(
        self,
        config: Any,
        backend: Backend,
        cache: AnswerCache | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.config, self.backend = config, backend
        self.cache = AnswerCache() if cache is None else cache
        self.sleep = sleep
        self._resting_until = -1.0
        self._reason = ""

    def write(
        self, names: Sequence[str], domain: str, start: int, stop: int, seed: int
    ) -> list[list[tuple[str, str]]]:
        """For each class of ``names`` the prompts ``start`` to ``stop`` (exclusive) as (prompt, source)."""
        phrases, ask = bank(self.config, domain), self.config.llm.ask
        classes = [_Class(spoken(name), domain, phrases, seed) for name in names]
        for first in range(start, stop, ask):
            for c in classes:
                c.begin(first, ask)
            self._group(classes)
            for c in classes:
                c.end()
        name = f"llm ({_model_name(self.config.llm)})"
        written = [c.result(start, stop, name) for c in classes]
        for reason in sorted({source for prompts in written for _, source in prompts} - {name}):
            count = sum(source == reason for prompts in written for _, source in prompts)
            log.warning(
                "%d of %d prompts of %s come from the %s.",
                count,
                (stop - start) * len(names),
                ", ".join(names[:3]) + " ..." * (len(names) > 3),
                reason,
            )
        return written

    def _group(self, classes: Sequence[_Class]) -> None:
        """One group of every class, with repetitions for what is missing."""
        answered = False
        for attempt in range(self.config.llm.retries + 1):
            open_ = [c for c in classes if c.missing]
            requests = [c.request(attempt) for c in open_]
            answers = self._answers(requests)
            for c, request, (answer, cached) in zip(open_, requests, answers, strict=True):
                if isinstance(answer, Failed):
                    c.reason = answer.reason
                    continue
                answered = True
                new = c.accept(answer)
                if new and not cached:
                    self.cache.put(self._name(request), answer)
            if not any(c.missing for c in classes):
                return
            if time.monotonic() < self._resting_until:
                return
            if attempt < self.config.llm.retries and any(isinstance(a, Failed) for a, _ in answers):
                self.sleep(min(PAUSE * 2**attempt, 16.0))
        if not answered:
            self._resting_until = time.monotonic() + REST
            self._reason = next(c.reason for c in classes if c.missing)

    def _answers(self, requests: Sequence[Request]) -> list[tuple[str | Failed, bool]]:
        """(answer, whether it came from the cache) for each request."""
        known = [self.cache.get(self._name(r)) for r in requests]
        todo = [r for r, k in zip(requests, known, strict=True) if k is None]
        if todo and time.monotonic() < self._resting_until:
            fresh: list[str | Failed] = [Failed(self._reason)] * len(todo)
        else:
            fresh = self.backend.complete(todo) if todo else []
        rest = iter(fresh)
        return [(next(rest), False) if k is None else (k, True) for k in known]

    def _name(self, request: Request) -> str:
        return digest(
            {
                "text version": TEXT_VERSION,
                "backend": self.backend.identity,
                "temperature": self.config.llm.temperature,
                "request": request.text,
                "seed": request.seed,
                "max_tokens": request.max_tokens,
            },
            32,
        )


@dataclass
class _Class:
    """What one class of a shard has so far."""

    category: str
    domain: str
    phrases: Bank
    seed: int
    done: list[str | None] = field(default_factory=list)
    """Accepted prompts of finished groups; None where the model gave none."""
    reasons: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    reason: str = ""
    first: int = 0
    ask: int = 0

    @property
    def missing(self) -> int:
        return self.ask - len(self.group)

    def begin(self, first: int, ask: int) -> None:
        self.first, self.ask, self.group, self.reason = first, ask, [], ""

    def request(self, attempt: int) -> Request:
        ideas = [
            self.phrases.prompt((self.first + j) % self.phrases.size, self.category, self.seed)
            for j in range(min(IDEAS, self.ask, self.phrases.size))
        ]
        text = request_text(
            self.category, self.domain, self.missing, ideas, [p for p in self.done if p][-20:] + self.group
        )
        seed = item_seed(self.seed, "prompts", self.category, f"llm {self.first} {attempt}") & 0x7FFFFFFF
        return Request(text, seed, TOKENS_PER_PROMPT * self.missing + 40)

    def accept(self, answer: str) -> int:
        found = parse_answer(answer)
        new = usable(found, self.category, [*filter(None, self.done), *self.group])[: self.missing]
        self.group += new
        if self.missing:
            self.reason = (
                f"its answers name too few different prompts with the words {self.category!r}"
                if found
                else "its answers are no list of prompts"
            )
        return len(new)

    def end(self) -> None:
        self.done += [*self.group, *[None] * self.missing]
        self.reasons += [self.reason] * self.ask

    def result(self, start: int, stop: int, source: str) -> list[tuple[str, str]]:
        """The stand-in of the k-th prompt is the bank's k-th."""
        result = []
        for k, text, reason in zip(range(start, stop), self.done, self.reasons, strict=False):
            result.append(
                (text, source)
                if text
                else (self.phrases.prompt(k, self.category, self.seed), f"{FALLBACK}{reason})")
            )
        return result


class AnswerCache:
    """Answers on this machine's disk, one small file each, by the hash of all that decides them. Failures
    only cost time."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder or cache_home() / "prompts"

    def get(self, name: str) -> str | None:
        try:
            answer = parse(read_own(self.folder / f"{name}.json"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, name: str, answer: str) -> None:
        try:
            data = json.dumps({"answer": answer}, ensure_ascii=False).encode()
            write_whole(self.folder / f"{name}.json", data)
        except OSError:
            log.debug("The cache of answers cannot be written.", exc_info=True)


def _model_name(config: Any) -> str:
    """A hub id as it is, of a folder its name."""
    path = Path(config.model).expanduser()
    return path.resolve().name if path.is_dir() else config.model
