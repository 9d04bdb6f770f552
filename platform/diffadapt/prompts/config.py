"""Settings of prompts: where they come from and how many (Adapt Anything section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffadapt.core.config import execution
from diffadapt.core.ranges import AtLeast, Natural, NonNegative, Positive
from diffadapt.prompts.backends.base import BACKENDS
from diffadapt.prompts.sources.base import SOURCES

Backends: Any = Literal[BACKENDS.choices("transformers", "openai", "ray")]
Sources: Any = Literal[SOURCES.choices("template", "bank", "llm", "file")]


@dataclass(frozen=True)
class LlmConfig:
    """The language model that writes prompts (Adapt Anything section 3: diversified prompts)."""

    backend: Backends = "transformers"
    """transformers: in the worker's process; openai: an OpenAI-compatible endpoint (vLLM server and others);
    ray: ray.data.llm."""
    model: str = "Qwen/Qwen2.5-7B-Instruct"
    endpoint: str = ""
    """URL up to /v1 (openai). The key, if any, comes from OPENAI_API_KEY and is never written; nor are the
    user and password of a URL http://user:password@host/v1."""
    temperature: NonNegative = 0.9
    ask: Positive = 20
    """Prompts asked for in one request."""
    retries: Natural = execution(3)
    timeout: Annotated[float, AtLeast(0.1)] = execution(60.0)
    """Seconds for one request."""


@dataclass(frozen=True)
class PromptConfig:
    source: Sources = "bank"
    """template: one sentence a class; bank: domain x style x background x viewpoint x light, deterministic;
    llm; file: your own."""
    prompts_per_class: Positive = 200
    template: str = "photo of a {category}"
    """``{category}`` and ``{domain}`` are replaced."""
    file: str = ""
    """CSV (category,prompt), JSON (category -> prompts) or text with {category}: for source 'file'."""
    styles: tuple[str, ...] = ()
    """The bank's lists; empty: the shipped ones."""
    backgrounds: tuple[str, ...] = ()
    viewpoints: tuple[str, ...] = ()
    lights: tuple[str, ...] = ()
    llm: LlmConfig = LlmConfig()
    block: Positive = 50
    """Prompts of each class in one shard."""
