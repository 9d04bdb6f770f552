"""A language model through ray.data.llm: vLLM engines on the cluster's GPUs, or many requests to an
endpoint."""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
from collections.abc import Sequence
from typing import Any

import ray

from diffadapt.core.errors import RecipeError, ResourceError
from diffadapt.models.pretrained import asks_for_code, foreign_code
from diffadapt.models.weights import resolve, revision
from diffadapt.orchestrate.connection import Connection, quiet_logs
from diffadapt.prompts.backends.base import Backend, Failed, Request, public_endpoint
from diffadapt.prompts.backends.openai import (
    LARGEST,
    TRANSIENT,
    authorization,
    chat_answer,
    chat_payload,
    refusal,
)
from diffadapt.prompts.config import LlmConfig
from diffadapt.run.runner import ExecutionConfig

INSTALL = 'pip install "ray[llm]"'

TOO_LARGE = "endpoint answer too large"
_STATUS = re.compile(r"endpoint status (\d{3})")

log = logging.getLogger(__name__)


class RayBackend(Backend):
    """Answers through a ray.data.llm processor, one Ray Data job for each call of :meth:`complete`.

    With ``config.endpoint`` the processor sends HTTP requests (needs aiohttp); without, it loads
    ``config.model`` into vLLM (needs ``ray[llm]`` and a free GPU: on a GPU cluster leave one to it with
    --execution.actors). It works on the Ray that this process belongs to (an actor of the Ray runner), and
    starts a small one under the local runner. Raises RecipeError or ResourceError.
    """

    def __init__(self, config: LlmConfig, device: str = "cpu"):
        super().__init__(config, device)
        self._connection: Connection | None = None
        if config.endpoint:
            self.where = public_endpoint(config.endpoint)
            self.identity = {"backend": "ray", "model": config.model, "endpoint": self.where}
        else:
            if importlib.util.find_spec("vllm") is None:
                raise RecipeError(
                    "prompts.llm.backend 'ray' without an endpoint needs vLLM, which is not installed here:"
                    f" {INSTALL} on every node, or give prompts.llm.endpoint."
                )
            self.where = config.model
            self.identity = {"backend": "ray", "model": revision(config.model)}
        try:
            import ray.data.llm  # noqa: F401
        except ImportError as error:
            raise RecipeError(
                f"ray.data.llm cannot be imported ({error}): {INSTALL}, or use prompts.llm.backend openai."
            ) from None
        if not ray.is_initialized():
            self._connection = Connection(ExecutionConfig())
            self._connection.open()
        if not config.endpoint and ray.available_resources().get("GPU", 0.0) < 1:
            raise ResourceError(
                "vLLM needs a free GPU, and the Ray cluster has none left: keep one free with"
                " --execution.actors, or give prompts.llm.endpoint."
            )

    def complete(self, requests: Sequence[Request]) -> list[str | Failed]:
        """Answers in order; a request whose job failed has none."""
        quiet_logs()
        preprocess = (
            functools.partial(_payload, config=self.config)
            if self.config.endpoint
            else functools.partial(_messages, config=self.config)
        )
        processor = self._processor(preprocess)
        dataset = ray.data.from_items(
            [
                {"index": i, "text": r.text, "seed": r.seed, "max_tokens": r.max_tokens}
                for i, r in enumerate(requests)
            ]
        )
        dataset.context.print_on_execution_start = False
        try:
            rows = processor(dataset).take_all()
        except (
            Exception
        ) as error:  # whatever Ray raises for a failed job; the whole text has the traceback of the worker
            log.debug("The ray.data.llm job failed.", exc_info=True)
            return [self._failed(str(error))] * len(requests)
        result = {row["index"]: row["answer"] for row in rows}
        return [self._answer(result.get(i)) for i in range(len(requests))]

    def close(self) -> None:
        """End the Ray that was started here, if one was."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failed(self, text: str) -> Failed:
        status = _STATUS.search(text)
        if status:
            code = int(status.group(1))
            if 300 <= code < 500 and code not in TRANSIENT:
                raise RecipeError(refusal(self.where, code, ""))
            return Failed(f"{self.where} answers with status {code}")
        if not self.config.endpoint and asks_for_code(text):
            raise foreign_code(self.where)
        if TOO_LARGE in text:
            return Failed(f"{self.where} gives an answer of more than {LARGEST >> 20} MiB")
        if "TimeoutError" in text:
            return Failed(f"{self.where} gives no answer within {self.config.timeout:g} s")
        if "ClientConnector" in text or "ClientOSError" in text or "ServerDisconnected" in text:
            return Failed(f"{self.where} cannot be reached through Ray")
        return Failed(f"the ray.data.llm job for {self.where} failed")

    def _answer(self, found: Any) -> str | Failed:
        if isinstance(found, str) and found.strip():
            return found
        return Failed(f"{self.where} gives no answers")

    def _processor(self, preprocess: Any) -> Any:
        from ray.data import llm

        if self.config.endpoint:
            config: Any = llm.HttpRequestProcessorConfig(
                url=f"{self.where}/chat/completions",
                concurrency=1,
                batch_size=16,
                session_factory=functools.partial(
                    _session, self.config.timeout, authorization(self.config.endpoint)
                ),
            )
            return llm.build_processor(
                config, preprocess=preprocess, postprocess=functools.partial(_http_answer, where=self.where)
            )
        config = llm.vLLMEngineProcessorConfig(
            model_source=resolve(self.config.model),
            engine_kwargs={"trust_remote_code": False},
            concurrency=1,
            batch_size=16,
        )
        return llm.build_processor(config, preprocess=preprocess, postprocess=_engine_answer)


def _payload(row: dict[str, Any], config: LlmConfig) -> dict[str, Any]:
    return {"payload": chat_payload(config, Request(row["text"], row["seed"], row["max_tokens"]))}


def _messages(row: dict[str, Any], config: LlmConfig) -> dict[str, Any]:
    sampling = {"temperature": config.temperature, "max_tokens": row["max_tokens"], "seed": row["seed"]}
    return {"messages": [{"role": "user", "content": row["text"]}], "sampling_params": sampling}


def _http_answer(row: dict[str, Any], where: str) -> dict[str, Any]:
    answer = chat_answer(row["http_response"], where)
    return {"index": row["index"], "answer": answer if isinstance(answer, str) else ""}


def _engine_answer(row: dict[str, Any]) -> dict[str, Any]:
    return {"index": row["index"], "answer": row["generated_text"]}


def _session(timeout: float, headers: dict[str, str]) -> Any:
    """The processor's HTTP session, made in its worker: with a time limit, the key, and an error for a bad
    status, for a redirection, which would carry the request on, and for an answer beyond LARGEST."""
    import aiohttp

    async def check(response: Any) -> None:
        if response.status >= 300:
            raise RuntimeError(f"endpoint status {response.status}")

    async def redirected(session: Any, context: Any, found: Any) -> None:
        raise RuntimeError(f"endpoint status {found.response.status}")

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                body = bytearray()
                async for block in self.content.iter_any():
                    body += block
                    if len(body) > LARGEST:
                        self.close()
                        raise RuntimeError(TOO_LARGE)
                self._body = bytes(body)
            return self._body

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(redirected)
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout),
        headers=headers,
        raise_for_status=check,
        response_class=Bounded,
        trace_configs=[trace],
    )
