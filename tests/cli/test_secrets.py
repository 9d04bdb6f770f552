"""A run whose options hold secrets: they reach servers and places, and no file, output or log."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from diffadapt.commands import recipes
from tests.cli.adaptplace import AdaptPlace
from tests.cli.badinput import diffadapt

PASSWORD, KEY = "p@WORD0SECRET:x", "sk-KEY0SECRETabcdefghijk"
PARTS = ("WORD0SECRET", "KEY0SECRET", base64.b64encode(b"me:" + PASSWORD.encode()).decode()[6:])


class Scribe(ThreadingHTTPServer):
    """Writes prompts for whoever knows the password; for 'one' it fails, and says too much."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.logins: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://me:{PASSWORD}@127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.logins.add(self.headers["Authorization"])  # type: ignore[attr-defined]
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        category = re.search(r'contains the words "(.*?)"', text)
        assert category
        prompts = json.dumps([f"a {category[1]} number {i}" for i in range(4)])
        status, body = 200, json.dumps({"choices": [{"message": {"content": prompts}}]})
        if category[1] == "one":
            status, body = 500, f"me:{PASSWORD} and {KEY}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def scribe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scribe]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("diffadapt.prompts.sources.llm.PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Scribe() as server:
        yield server
        server.shutdown()


def test_an_endpoint_and_a_place_with_passwords_leave_none_behind(
    adapt: AdaptPlace, scribe: Scribe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = fsspec.filesystem("memory")
    place = f"memory://me:{PASSWORD}@bucket{id(adapt)}"
    for file in adapt.flat.iterdir():
        memory.pipe_file(f"{place}/{file.name}", file.read_bytes())
    memory.pipe_file(f"{place}/broken.png", b"no image")
    root, out = tmp_path / "root", tmp_path / "out"
    llm = ("--prompts.llm.backend", "openai", "--prompts.llm.model", "scribe", "--prompts.llm.retries", "0")
    words = ("--prompts.source", "llm", *llm, "--prompts.llm.endpoint", scribe.endpoint)
    given = {"target": place, "root": root}
    with caplog.at_level(logging.DEBUG, logger="diffadapt"):
        results = [
            adapt.short(*words, "--execution.max-failed-fraction", "0.5", **given),
            adapt.plan(*words, "--domain", "webcam photos", **given),
            adapt.short(*words, **{**given, "target": f"{place}/nowhere"}),
            adapt.short("--prompts.source", "file", "--prompts.file", f"{place}/none.csv", **given),
            adapt.words("show", *words, target=place, root=None),
            diffadapt("status", "last", "--root", root),
            diffadapt("report", "last", "--root", root),
            diffadapt("cache", "ls", "--root", root),
            diffadapt("export", "last", "--what", "model", "--out", out / "model", "--root", root),
            diffadapt("export", "last", "--what", "prompts", "--out", out / "prompts", "--root", root),
        ]
    memory.rm(place, recursive=True)
    assert [r.status for r in results] == [0, 0, 2, 2, 0, 0, 0, 0, 0, 0], [r.text for r in results]
    assert scribe.logins == {"Basic " + base64.b64encode(b"me:" + PASSWORD.encode()).decode()}
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    names = {p.name for p in files}
    assert {"recipe.json", "manifest.json", "report.html", "family.json", "prompts.csv", "README.md"} <= names
    said = {"log": caplog.text, **{f"output {i}": r.text for i, r in enumerate(results)}}
    texts = {**{str(p): data for p, data in files.items()}, **{k: v.encode() for k, v in said.items()}}
    leaks = [(name, part) for name, data in texts.items() for part in PARTS if part.encode() in data]
    leaks += [(str(p), part) for p in files for part in PARTS if part in str(p)]
    assert not leaks, [said[name] for name, _ in leaks if name in said]
    assert "***@127.0.0.1" in (next(p for p in files if p.name == "recipe.json")).read_text()


def test_an_error_of_the_program_is_shown_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: object) -> int:
        raise ValueError(f"s3://me:{PASSWORD}@bucket/x and {KEY}")

    monkeypatch.setattr(recipes, "ls", fail)
    result = diffadapt("ls")
    assert result.status == 1 and "Traceback" in result.error and "s3://***@bucket/x" in result.error
    assert not [part for part in PARTS if part in result.text]
