"""One HTTP request keeps its bounds against a server that does everything wrong."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from diffadapt.core.errors import RecipeError
from diffadapt.core.http import HttpError, ask, login, public

LIMIT = 0.5
PATIENCE = 20.0
"""Seconds after which a request that should have ended counts as hanging."""


class Server:
    """Gives every connection to ``reply``, with the bytes of its request."""

    def __init__(self, reply: Callable[[socket.socket, bytes], None]):
        self.reply, self.seen = reply, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = connection.recv(1 << 16)
            self.seen.append(request)
            self.reply(connection, request)

    def drip(self, connection: socket.socket, piece: bytes) -> None:
        while not self.over.wait(0.05):
            connection.sendall(piece)


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Server]]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers: list[Server] = []

    def make(reply: Callable[[socket.socket, bytes], None]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield make
    for server in servers:
        server.over.set()
        server.listener.close()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def ended(call: Callable[[], object]) -> BaseException | object:
    """What ``call`` gives or raises; the test fails where it hangs."""
    found: list[BaseException | object] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert found, "it hangs"
    return found[0]


def test_an_answer_and_what_was_asked(serve):
    server = serve(lambda c, r: c.sendall(answer(b"good")))
    url = f"http://127.0.0.1:{server.port}/a?x=1"
    assert ask(url, timeout=30) == b"good"
    assert ask(url, b"body", {"X-Own": "1"}, timeout=30) == b"good"
    get, post = server.seen
    assert get.startswith(b"GET /a?x=1 ") and post.startswith(b"POST /a?x=1 ")
    assert b"X-Own: 1" in post and b"Authorization" not in get


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP", b""])
def test_what_trickles_in_ends_at_the_time_limit(serve, start):
    def reply(connection: socket.socket, request: bytes) -> None:
        connection.sendall(start)
        server.drip(connection, b"a" if start else b"HTTP/1.1 100 Continue\r\n\r\n")

    server = serve(reply)
    error = ended(lambda: ask(f"http://127.0.0.1:{server.port}", timeout=LIMIT))
    assert isinstance(error, TimeoutError) and str(error) == "gives no answer within 0.5 s"


def test_a_refusal_that_trickles_in_and_silence_end_too(serve):
    def reply(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
        server.drip(connection, b"a")

    server, silent = serve(reply), serve(lambda c, r: silent.over.wait())
    error = ended(lambda: ask(f"http://127.0.0.1:{server.port}", timeout=LIMIT))
    assert isinstance(error, HttpError) and error.status == 400
    for scheme in ("http", "https"):
        error = ended(lambda scheme=scheme: ask(f"{scheme}://127.0.0.1:{silent.port}", timeout=LIMIT))
        assert isinstance(error, TimeoutError)


def test_a_huge_answer_is_not_read_to_its_end(serve):
    def reply(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.over.is_set():
            connection.sendall(b"a" * 65536)

    server = serve(reply)
    error = ended(lambda: ask(f"http://127.0.0.1:{server.port}", timeout=600, largest=3 << 20))
    assert isinstance(error, HttpError) and str(error) == "gives an answer of more than 3 MiB"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Again", "308 Always"])
@pytest.mark.parametrize("body", [None, b"prompt"])
def test_no_redirection_is_followed(serve, status, body):
    other = serve(lambda c, r: c.sendall(answer(b"got you")))
    server = serve(lambda c, r: c.sendall(answer(b"", status, f"Location: http://127.0.0.1:{other.port}/x")))
    with pytest.raises(HttpError, match=r"redirects to 127\.0\.0\.1 .*give the final address") as caught:
        ask(f"http://127.0.0.1:{server.port}", body, {"Authorization": "Bearer SECRET"}, timeout=30)
    assert caught.value.status == int(status[:3]) and not other.seen


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(b"why", "404 Not Found"), "answers with status 404"),
        (answer(b"busy", "503 Busy"), "answers with status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "breaks its answer off"),
        (b"\x00\x01\x02\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
def test_what_is_no_answer_is_said(serve, reply, said):
    server = serve(lambda c, r: c.sendall(reply))
    with pytest.raises(HttpError, match=said) as caught:
        ask(f"http://127.0.0.1:{server.port}", timeout=30)
    assert caught.value.body == (reply.rpartition(b"\r\n\r\n")[2] if caught.value.status else b"")


def test_user_and_password_are_a_header_and_never_part_of_the_request(serve):
    server = serve(lambda c, r: c.sendall(answer(b"good")))
    url = f"http://me:p@SEC%2FRET@127.0.0.1:{server.port}/v1?x=1"
    ask(url, timeout=30)
    ask(url, headers={"Authorization": "Bearer own"}, timeout=30)
    wanted = base64.b64encode(b"me:p@SEC/RET")
    assert b"Authorization: Basic " + wanted in server.seen[0] and b"SEC" not in server.seen[0]
    assert b"Authorization: Bearer own" in server.seen[1] and b"Basic" not in server.seen[1]
    assert public(url) == f"http://127.0.0.1:{server.port}/v1" and login("http://host/") == {}


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://host/x", "data:,x", "host:80", "", "http://", "http://host:port/", "http://u:p/SEC@h",
     "http://[::1", "http://host/a b", "http://host:0/"],
)  # fmt: skip
def test_what_is_no_http_url_is_refused_in_a_sentence(url):
    with pytest.raises(RecipeError, match="which is not a URL: it begins with http:// or https://") as caught:
        ask(url, timeout=1)
    assert "SEC" not in str(caught.value)
