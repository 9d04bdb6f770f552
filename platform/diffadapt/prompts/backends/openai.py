"""A language model behind an OpenAI-compatible endpoint (vLLM, llama.cpp, Ollama, hosted ones)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diffadapt.core.errors import RecipeError
from diffadapt.core.foreign import parse
from diffadapt.core.http import HttpError, ask, login
from diffadapt.core.redact import redact
from diffadapt.prompts.backends.base import Backend, Failed, Request, public_endpoint
from diffadapt.prompts.config import LlmConfig

AT_ONCE = 8
"""Requests in flight."""
LARGEST = 4 << 20
"""Bytes of the largest answer that is read."""
TRANSIENT = (408, 409, 425, 429)
"""Client errors that another attempt may mend; those of the server are such too."""
KEY = "OPENAI_API_KEY"


class HttpBackend(Backend):
    """POSTs to ``<endpoint>/chat/completions``; the key comes from OPENAI_API_KEY of the worker's
    environment."""

    def __init__(self, config: LlmConfig, device: str = "cpu"):
        super().__init__(config, device)
        self.where = public_endpoint(config.endpoint)
        self.identity = {"backend": "openai", "model": config.model, "endpoint": self.where}

    def complete(self, requests: Sequence[Request]) -> list[str | Failed]:
        """Raises RecipeError when the endpoint refuses the key, the model or the request as such (status 3xx,
        4xx)."""
        with ThreadPoolExecutor(min(AT_ONCE, len(requests))) as pool:
            return list(pool.map(self._one, requests))

    def _one(self, request: Request) -> str | Failed:
        data = json.dumps(chat_payload(self.config, request)).encode()
        headers = {"Content-Type": "application/json", **authorization(self.config.endpoint)}
        try:
            body = ask(
                f"{self.where}/chat/completions", data, headers, timeout=self.config.timeout, largest=LARGEST
            )
        except HttpError as error:
            if error.status and error.status not in TRANSIENT and error.status < 500:
                raise RecipeError(
                    refusal(self.where, error.status, error.body.decode("utf-8", "replace"))
                ) from None
            return Failed(f"{self.where} {error}")
        except TimeoutError as error:
            return Failed(f"{self.where} {error}")
        return chat_answer(body, self.where)


def chat_payload(config: LlmConfig, request: Request) -> dict[str, Any]:
    """The JSON body of one chat completion."""
    return {
        "model": config.model,
        "messages": [{"role": "user", "content": request.text}],
        "temperature": config.temperature,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
    }


def chat_answer(body: bytes | dict[str, Any], where: str) -> str | Failed:
    """The text of a chat completion's first choice."""
    try:
        value = body if isinstance(body, dict) else parse(body)
        text = value["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return Failed(f"{where} answers with something that is no chat completion")
    return text if isinstance(text, str) and text.strip() else Failed(f"{where} gives empty answers")


def authorization(endpoint: str) -> dict[str, str]:
    """The header with user and password of the URL, or with the key, or none."""
    if basic := login(endpoint):
        return basic
    key = os.environ.get(KEY, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def refusal(where: str, status: int, body: str) -> str:
    """One sentence for a request that will never be answered, however often it is repeated."""
    if status in (401, 403):
        hint = (
            f"set {KEY} to a valid key"
            if not os.environ.get(KEY)
            else f"the key in {KEY} is not accepted there"
        )
    elif status in (404, 405):
        hint = (
            "check that prompts.llm.endpoint ends in /v1 (or where that server has chat/completions) and that"
            " prompts.llm.model is served there"
        )
    elif status < 400:
        hint = "it redirects, and keys are not sent on: give the final address"
    else:
        hint = f"it says: {_excerpt(body)}"
    return f"The language model's endpoint {where} refuses the request (status {status}): {hint}."


def _excerpt(body: str) -> str:
    key = os.environ.get(KEY, "").strip()
    text = " ".join(body.split())
    if key:
        text = text.replace(key, "***")
    return redact(text)[:200] or "nothing"
