"""A language model behind an OpenAI-compatible endpoint (vLLM, llama.cpp, Ollama, hosted ones), asked with
the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

from diffadapt.core.errors import RecipeError
from diffadapt.core.foreign import parse
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
        self._opener = urllib.request.build_opener(_NoRedirect())

    def complete(self, requests: Sequence[Request]) -> list[str | Failed]:
        """Raises RecipeError when the endpoint refuses the key, the model or the request as such (status 3xx,
        4xx)."""
        with ThreadPoolExecutor(min(AT_ONCE, len(requests))) as pool:
            return list(pool.map(self._one, requests))

    def _one(self, request: Request) -> str | Failed:
        data = json.dumps(chat_payload(self.config, request)).encode()
        call = urllib.request.Request(
            f"{self.where}/chat/completions",
            data,
            {"Content-Type": "application/json", **authorization(self.config.endpoint)},
        )
        try:
            body = self._read(call)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in TRANSIENT or error.code >= 500:
                    return Failed(f"{self.where} answers with status {error.code}")
                raise RecipeError(
                    refusal(self.where, error.code, error.read(2000).decode("utf-8", "replace"))
                ) from None
        except TimeoutError:
            return Failed(f"{self.where} gives no answer within {self.config.timeout:g} s")
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                return Failed(f"{self.where} gives no answer within {self.config.timeout:g} s")
            return Failed(
                f"{self.where} cannot be reached ({getattr(cause, 'strerror', None) or type(cause).__name__})"
            )
        return chat_answer(body, self.where)

    def _read(self, call: urllib.request.Request) -> bytes:
        """The body, within the time limit even when it trickles in."""
        until = time.monotonic() + self.config.timeout
        body = bytearray()
        with self._opener.open(call, timeout=self.config.timeout) as response:
            while block := response.read1(1 << 16):
                body += block
                if time.monotonic() > until:
                    raise TimeoutError
                if len(body) > LARGEST:
                    break
        return bytes(body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the key to wherever it leads."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


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
    parts = urlsplit(endpoint)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
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
    return text[:200] or "nothing"
