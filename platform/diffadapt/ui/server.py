"""The page over HTTP, by aiohttp, which comes with Ray: one thread listens, a few others read."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from diffadapt.core.errors import ResourceError
from diffadapt.core.listening import bound
from diffadapt.ui.answers import Answers, Reply, said
from diffadapt.ui.guard import CONTENT_POLICY, HEADERS, Guard

READERS = 8
"""Threads that read files of the root."""
COMPRESSED = 2048
"""Bytes from which on text is sent compressed."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there (port 0: one that is free). ResourceError where that cannot be."""
    try:
        listener = bound(host, port)
        try:
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno in errno.errorcode else str(error)
        raise ResourceError(
            f"The page cannot listen at {host}:{port} ({why}): give another --port, or 0 for any that is"
            " free, or another --host."
        ) from None


def application(answers: Answers, guard: Guard) -> web.Application:
    """Every request goes through the guard, then to :class:`Answers` in a thread."""
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="page")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = {name: request.query.getall(name) for name in request.query}
        given = query.get("token", [""])[0]
        if refusal := guard.refuse(request.method, headers, request.cookies, given):
            reply = said(refusal.sentence, refusal.status)
            more = {"Allow": "GET"} if refusal.status == 405 else {}
            return _response(reply, headers, more)
        if given and guard.token and request.path == "/":
            response = _response(Reply(303, b"", "text/plain"), headers, {"Location": "/"})
            response.set_cookie(guard.cookie, guard.kept, httponly=True, samesite="Strict", path="/")
            return response
        loop = asyncio.get_running_loop()
        return _response(await loop.run_in_executor(pool, answers, request.path, query), headers)

    async def close(_: web.Application) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    app = web.Application(client_max_size=1024)
    app.router.add_route("*", "/{path:.*}", handle)
    app.on_cleanup.append(close)
    return app


def serve(
    answers: Answers, guard: Guard, listener: socket.socket, ready: Callable[[], None] = lambda: None
) -> None:
    """Answer until the process is interrupted (KeyboardInterrupt)."""
    asyncio.run(_serve(answers, guard, listener, ready))


async def _serve(answers: Answers, guard: Guard, listener: socket.socket, ready: Callable[[], None]) -> None:
    runner = web.AppRunner(application(answers, guard), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        ready()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _response(reply: Reply, asked: dict[str, str], more: dict[str, str] | None = None) -> web.Response:
    headers = {
        **HEADERS,
        "Content-Security-Policy": reply.policy or CONTENT_POLICY,
        "Content-Type": reply.kind,
        "Cache-Control": reply.cache,
        **(more or {}),
    }
    if reply.status == 200:
        headers["ETag"] = tag = f'"{hashlib.sha256(reply.body).hexdigest()[:24]}"'
        if tag in asked.get("if-none-match", ""):
            return web.Response(status=304, headers=headers)
    response = web.Response(status=reply.status, body=reply.body, headers=headers)
    if len(reply.body) > COMPRESSED and not reply.kind.startswith("image/p"):
        response.enable_compression()
    return response
