"""One HTTP request within bounds: http and https alone, one time limit for all of it, a largest answer, and
no redirection, which would carry the key to wherever it leads."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from diffadapt.core.errors import RecipeError
from diffadapt.core.redact import redact

LARGEST = 32 << 20
"""Bytes of the largest answer that is read where the caller names none."""
SHOWN = 2000
"""Bytes of a refusal that are kept."""


class HttpError(OSError):
    """A server that did not answer as it should; the message is part of a sentence that begins with the
    server. ``status`` and ``body`` are those of a refusal (3xx, 4xx, 5xx), else 0 and empty."""

    def __init__(self, message: str, status: int = 0, body: bytes = b""):
        super().__init__(message)
        self.status, self.body = status, body


def parsed(url: str, what: str = "The address") -> SplitResult:
    """The parts of an http or https URL. RecipeError for another scheme, and where host or port are missing
    or unusable; ``what`` begins the sentence."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or any(c.isspace() for c in url):
        raise RecipeError(
            f"{what} is {redact(url)!r}, which is not a URL: it begins with http:// or https://, names a"
            " host, and writes / ? # and spaces of a user or password as %2F %3F %23 %20."
        )
    return parts


def public(url: str) -> str:
    """``url`` without user, password, query and trailing slash: what may be stored and shown."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.rstrip("/")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def login(url: str) -> dict[str, str]:
    """The header with user and password of ``url``; none where it names no user."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def ask(
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float,
    largest: int = LARGEST,
) -> bytes:
    """The answer to a GET, or to a POST of ``body``; user and password of ``url`` go as a Basic header where
    ``headers`` name no other.

    All of it, from connecting to the last byte, takes at most ``timeout`` seconds (TimeoutError) and has at
    most ``largest`` bytes (HttpError). Raises RecipeError for what is no http(s) URL, HttpError for statuses
    from 300 on, OSError where the server cannot be reached.
    """
    parts = parsed(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(plain, body, {**login(url), **(headers or {})})
    late = TimeoutError(f"gives no answer within {timeout:g} s")
    with _Clock(timeout) as clock:
        try:
            with _opener(clock).open(request, timeout=timeout) as response:
                answer = _read(response, largest)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if clock.over or isinstance(cause, TimeoutError):
                raise late from None
            if isinstance(cause, HttpError):
                raise cause from None
            why = getattr(cause, "strerror", None) or type(cause).__name__
            raise HttpError(f"cannot be reached ({why})") from None
        if clock.over:  # what was cut off looks like an end
            raise late
    return answer


def _read(response: Any, largest: int) -> bytes:
    whole, answer = response.length, bytearray()
    while (whole is None or len(answer) < whole) and (block := response.read1(1 << 16)):
        answer += block
        if len(answer) > largest:
            raise HttpError(f"gives an answer of more than {largest >> 20} MiB")
    if whole is not None and len(answer) < whole:
        raise HttpError("breaks its answer off")
    return bytes(answer)


def _refusal(error: urllib.error.HTTPError) -> HttpError:
    body = b""
    with error, contextlib.suppress(OSError, http.client.HTTPException):
        body = error.read(SHOWN)
    where = urlsplit(error.headers.get("Location") or "").hostname
    if error.code < 400:
        return HttpError(
            f"redirects to {where or 'another place'} (status {error.code}), and neither request nor key are"
            " sent on: give the final address",
            error.code,
            body,
        )
    return HttpError(f"answers with status {error.code}", error.code, body)


class _Clock:
    """Ends its connections when the time is over, whatever they wait for: a limit of a socket is one for each
    of its reads, and a header that trickles in has many."""

    def __init__(self, seconds: float):
        self._until, self.over = time.monotonic() + seconds, False
        self._timers: list[tuple[threading.Timer, socket.socket]] = []

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, *error: object) -> None:
        for timer, twin in self._timers:
            timer.cancel()
            twin.close()

    def connect(self, address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        """In place of socket.create_connection, which gives the whole time to every address of a host."""
        failed: OSError = OSError("no address")
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            left = self._until - time.monotonic()
            if left <= 0:
                self.over = True
                raise TimeoutError
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(left)
                if source:
                    connection.bind(source)
                connection.connect(place)
                self._watch(connection)
                return connection
            except OSError as error:
                connection.close()
                failed = error
        raise failed

    def _watch(self, connection: socket.socket) -> None:
        twin = connection.dup()  # TLS takes the descriptor of the first one over
        timer = threading.Timer(max(0.0, self._until - time.monotonic()), self._end, (twin,))
        timer.daemon = True
        self._timers.append((timer, twin))
        timer.start()

    def _end(self, twin: socket.socket) -> None:
        self.over = True
        with contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock):
        super().__init__()
        self.clock = clock

    def http_open(self, req: Any) -> Any:
        return self.do_open(functools.partial(_connection, http.client.HTTPConnection, self.clock), req)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock):
        super().__init__()
        self.clock = clock

    def https_open(self, req: Any) -> Any:
        return self.do_open(functools.partial(_connection, http.client.HTTPSConnection, self.clock), req)  # type: ignore[arg-type]


def _connection(kind: type, clock: _Clock, host: str, **more: Any) -> Any:
    connection = kind(host, **more)
    connection._create_connection = clock.connect  # where http.client looks for it
    return connection


def _opener(clock: _Clock) -> urllib.request.OpenerDirector:
    """With the environment's proxies, and without what opens files, FTP and data, and what follows
    redirections."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(clock),
        _Https(clock),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
