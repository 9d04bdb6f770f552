"""The door of a served run: requests over HTTP in, predictions out, as JSON; within limits, and each refusal
one sentence. Knows neither Ray nor a web framework."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from diffadapt.core.errors import DiffadaptError, ItemError
from diffadapt.core.redact import redact
from diffadapt.core.upload import Refused, Upload, images_of, pieces
from diffadapt.data.image import TooManyPixels, UnknownFormat, open_image

log = logging.getLogger(__name__)
Ask = Callable[[Sequence[Upload]], Awaitable[list[dict[str, Any]]]]
FRESH = 10.0
"""Seconds for which an answer shows that a replica is there."""


class Unavailable(DiffadaptError):
    """No replica answers now; the same request may be answered later."""


@dataclass(frozen=True)
class Limits:
    """What a door lets in."""

    body_bytes: int = 32 << 20
    images: int = 256
    """Of one request."""
    waiting: int = 128
    """Requests that are in the house at once; more are told to come later."""
    seconds: float = 60.0
    """Of one request, from its header to its answer."""
    batch: int = 16
    """Images that go to a replica at a time."""


@dataclass(frozen=True)
class Reply:
    status: int
    content: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """What one request was, for the counters."""

    status: int
    seconds: float
    answered: int = 0
    """Images with a prediction."""
    refused: int = 0
    """Images of an answered request that could not be read."""


class Door:
    """``about``: what is served, with its name as ``run``; ``ask``: predictions of a few images, in their
    order, each a dict with ``path``, or ``path`` and ``reason`` where the image cannot be predicted
    (Unavailable where nobody answers); ``ready``: whether somebody would; ``token``: what requests must
    bear, if anything."""

    def __init__(
        self,
        about: Mapping[str, Any],
        limits: Limits,
        ask: Ask,
        ready: Callable[[], Awaitable[bool]],
        token: str = "",
        observe: Callable[[Observed], None] = lambda observed: None,
    ):
        self.about, self.limits, self.ask, self.ready = dict(about), limits, ask, ready
        self.token, self.observe = token, observe
        self._inside, self._answered = 0, 0.0
        name = self.about["run"]
        self._predict = {"/predict", f"/v1/models/{name}:predict", f"/predictions/{name}"}
        self._about = {"/", f"/v1/models/{name}"}

    async def __call__(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]
    ) -> Reply:
        """The reply to one request; ``headers`` with names in lower case."""
        path = unquote(path)
        if path == "/healthz":
            return Reply(200, {"status": "ok"})
        if path == "/readyz":
            return await self._readiness()
        if self.token and not hmac.compare_digest(
            headers.get("authorization", "").encode(), f"Bearer {self.token}".encode()
        ):
            return _said("The request bears no or another token: send it as Authorization: Bearer.", 401)
        if path in self._about and method in ("GET", "HEAD"):
            return Reply(200, {**self.about, "ready": await self._is_ready()})
        if path not in self._predict:
            return _said(f"There is nothing at {path}: POST images to /predict.", 404)
        if method != "POST":
            return _said(f"{path} takes POST, not {method}.", 405, {"Allow": "POST"})
        return await self._counted(query, headers, body)

    async def _counted(self, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Reply:
        start = time.monotonic()
        if self._inside >= self.limits.waiting:
            reply = _said(
                f"{self._inside} requests are waiting, which is the limit: ask again later.",
                503,
                {"Retry-After": "1"},
            )
        else:
            self._inside += 1
            try:
                reply = await self._reply(query, headers, body)
            finally:
                self._inside -= 1
        rows = reply.content.get("predictions", ())
        bad = sum("reason" in row for row in rows)
        self.observe(Observed(reply.status, time.monotonic() - start, len(rows) - bad, bad))
        return reply

    async def _reply(self, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Reply:
        try:
            return await asyncio.wait_for(self._predicted(query, headers, body), self.limits.seconds)
        except Refused as error:
            return _said(str(error), error.status)
        except (asyncio.TimeoutError, TimeoutError):
            return _said(f"There was no answer within {self.limits.seconds:g} s: ask again later.", 503)
        except Unavailable as error:
            return _said(str(error), 503, {"Retry-After": "1"})
        except DiffadaptError as error:
            return _said(str(error), 500)
        except Exception:
            log.exception("A request could not be answered.")
            return _said("The server failed at this request; its log says why.", 500)

    async def _predicted(self, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Reply:
        data = await self._read(headers, body)
        name = parse_qs(query).get("name", [""])[0]
        images = images_of(headers.get("content-type", ""), data, name)
        if len(images) > self.limits.images:
            raise Refused(
                f"The request holds {len(images)} images, more than the {self.limits.images} of one request:"
                " send several requests.",
                413,
            )
        errors = [_glance(name, data) for name, data in images]
        good = [image for image, error in zip(images, errors, strict=True) if error is None]
        parts = await asyncio.gather(*(self.ask(part) for part in pieces(good, self.limits.batch)))
        made = iter([row for part in parts for row in part])
        rows: list[dict[str, Any]] = [
            next(made) if error is None else {"path": name, "reason": str(error)}
            for (name, _), error in zip(images, errors, strict=True)
        ]
        if good:
            self._answered = time.monotonic()
        if all("reason" in row for row in rows):
            raise Refused(rows[0]["reason"], errors[0].status if errors[0] else 400)
        return Reply(200, {"run": self.about["run"], "row": self.about.get("row", ""), "predictions": rows})

    async def _read(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> bytes:
        limit, data = self.limits.body_bytes, bytearray()
        length = headers.get("content-length", "")
        too_large = Refused(
            f"The body is larger than {limit / (1 << 20):g} MiB, which is the limit of one request: send"
            " fewer or smaller images.",
            413,
        )
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise too_large
        async for block in body:
            data += block
            if len(data) > limit:
                raise too_large
        return bytes(data)

    async def _is_ready(self) -> bool:
        if time.monotonic() - self._answered < FRESH and self._answered:
            return True
        try:
            return await self.ready()
        except Exception:
            return False

    async def _readiness(self) -> Reply:
        if await self._is_ready():
            return Reply(200, {"status": "ready"})
        return _said("No replica answers yet: ask again later.", 503, {"Retry-After": "1"})


def _glance(name: str, data: bytes) -> Refused | None:
    """What is wrong with an image as far as its header tells, before it goes to a replica."""
    try:
        with open_image(data, name):
            return None
    except TooManyPixels as error:
        return Refused(str(error), 413)
    except UnknownFormat as error:
        return Refused(str(error), 415)
    except ItemError as error:
        return Refused(str(error), 400)


def _said(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, {"error": redact(sentence)}, headers or {})
