"""What a remote store's refusal means: expired, wrong or missing credentials, a wrong clock, or no
permission."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffadapt.cli import main
from diffadapt.core.credentials import refused
from diffadapt.core.errors import StoreError
from diffadapt.core.store import Store

CODES = {
    "ExpiredToken": (400, "have expired (ExpiredToken)", "renew them"),
    "TokenRefreshRequired": (400, "have expired (TokenRefreshRequired)", "renew them"),
    "InvalidAccessKeyId": (403, "are refused (InvalidAccessKeyId)", "give the right ones"),
    "SignatureDoesNotMatch": (403, "are refused (SignatureDoesNotMatch)", "give the right ones"),
    "RequestTimeTooSkewed": (403, "clock (RequestTimeTooSkewed)", "set the time"),
    "AccessDenied": (403, "permission denied", "give a --root that you may write"),
}


class Refusing(BaseHTTPRequestHandler):
    """An S3 that refuses everything with its server's ``code``; an answer to HEAD has no body to say why."""

    protocol_version = "HTTP/1.1"

    def handle_expect_100(self) -> bool:
        return True  # the refusal comes before the body

    def _answer(self) -> None:
        code = self.server.code  # type: ignore[attr-defined]
        body = (
            b""
            if self.command == "HEAD"
            else f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
        )
        if "Expect" not in self.headers:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(CODES[code][0])
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    s3fs = pytest.importorskip("s3fs")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "stale")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        server.shutdown()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("code", CODES)
def test_a_command_says_what_is_wrong_with_the_credentials(server, code: str) -> None:
    server.code = code
    _, what, mend = CODES[code]
    for words in (["run", "quickstart"], ["status"]):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            assert main([*words, "--root", "s3://bucket/root"]) == 2
        said = error.getvalue().strip()
        assert what in said and mend in said and "\n" not in said, said
        assert ("--root" in said) == (code == "AccessDenied"), "another place would not help"


@pytest.mark.parametrize("code", CODES)
def test_writing_says_it_too(server, code: str) -> None:
    server.code = code
    with pytest.raises(StoreError) as caught:
        Store("s3://bucket/root").write_bytes("kind/name", b"x")
    assert CODES[code][1] in str(caught.value) and CODES[code][2] in str(caught.value)


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="are missing|no credentials"):
        Store("s3://bucket/root").check()
    s3fs.S3FileSystem.clear_instance_cache()


class HttpError(Exception):
    """Stands for gcsfs.retry.HttpError and azure.core.exceptions.HttpResponseError."""

    def __init__(self, message: str, code: object, error_code: str = ""):
        super().__init__(message)
        self.code = self.status_code = code
        self.error_code = error_code


class RefreshError(Exception):
    """As google.auth.exceptions has it."""


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (HttpError("Invalid Credentials, 401", 401), "status 401"),
        (HttpError("Server failed to authenticate the request", 403, "AuthenticationFailed"), "are refused"),
        (RefreshError("Reauthentication is needed"), "have expired (RefreshError)"),
        (HttpError("lacks storage.objects.create", 403), None),
        (PermissionError("Forbidden"), None),
        (OSError("timed out"), None),
    ],
)
def test_other_stores(error: Exception, part: str | None) -> None:
    said = refused(error, "the store gs://bucket/root")
    assert said is None if part is None else part in str(said)
