"""What a language model is asked and answers, and what a place where one runs is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.discover import Seam
from diffadapt.core.http import public
from diffadapt.core.redact import redact


@dataclass(frozen=True)
class Request:
    """One question to a language model: the user's message, the seed of its sampling, the longest answer in
    tokens."""

    text: str
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Failed:
    """Why a request has no answer: part of a sentence, without keys, paths or passwords."""

    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", redact(self.reason))


class Backend:
    """Base of all back-ends: where a language model runs. Made of the LlmConfig and the worker's device.
    Raises WeightsError, RecipeError or ResourceError where it cannot be used."""

    identity: dict[str, Any]
    """What of the back-end decides the answers: part of the name under which they are cached."""

    def __init__(self, config: Any, device: str = "cpu"):
        self.config = config

    def complete(self, requests: Sequence[Request]) -> list[str | Failed]:
        """An answer, or why there is none, for each request, in order.

        Raises DiffadaptError only for what the user must mend first (no such weights, a refused key, a
        library missing).
        """
        raise NotImplementedError


BACKENDS = Seam(
    "language model back-end", "diffadapt.prompts.backends", "DIFFADAPT_PROMPTS", Backend, folder="backends"
)
"""The back-ends that are found by file, by the value of ``prompts.llm.backend``."""
HANDED_IN: dict[str, Callable[[Any, str], Backend]] = {}
"""Back-ends that stand on more than this folder may import: orchestrate hands in 'ray'."""


def open_backend(config: Any, device: str) -> Backend:
    """The back-end of an LlmConfig; loads the model when it runs in this process."""
    return (HANDED_IN.get(config.backend) or BACKENDS.load(config.backend))(config, device)


def public_endpoint(endpoint: str) -> str:
    """An endpoint without user, password, query and trailing slash: what may be stored and shown."""
    return public(endpoint)
