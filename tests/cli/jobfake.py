"""A stand-in for Ray's job server that keeps what it is sent: what `diffadapt submit` says and sends can be
looked at within milliseconds."""

from __future__ import annotations

import io
import json
import platform
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FakeServer:
    """``hostname``: where its head runs; ``jobs``: what was sent; ``packages``: name -> names of the files in
    it."""

    ray: str = "2.60.0"
    python: str = platform.python_version()
    hostname: str = platform.node()
    garbled: bool = False
    address: str = ""
    jobs: list[dict] = field(default_factory=list)
    packages: dict[str, list[str]] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> object | None:
        """The JSON to answer with; None: not found."""
        if self.garbled:
            return "hello"
        if path == "/api/version":
            return {"version": "4", "ray_version": self.ray, "ray_commit": "", "session_name": ""}
        if path == "/api/v0/cluster_metadata":
            return {"result": True, "data": {"rayVersion": self.ray, "pythonVersion": self.python}}
        if path.startswith("/nodes"):
            return {
                "data": {
                    "summary": [{"hostname": self.hostname, "raylet": {"isHeadNode": True, "state": "ALIVE"}}]
                }
            }
        if path.startswith("/api/packages/"):
            name = path.rpartition("/")[2]
            if method == "PUT":
                self.packages[name] = zipfile.ZipFile(io.BytesIO(body)).namelist()
            return {} if name in self.packages else None
        if path == "/api/jobs/" and method == "POST":
            self.jobs.append(json.loads(body))
            return {"job_id": self.jobs[-1]["submission_id"], "submission_id": self.jobs[-1]["submission_id"]}
        if path == "/api/jobs/":
            return [
                {
                    "type": "SUBMISSION",
                    "submission_id": j["submission_id"],
                    "status": "RUNNING",
                    "entrypoint": j["entrypoint"],
                    "metadata": j["metadata"],
                    "start_time": 1000,
                }
                for j in self.jobs
            ]
        return None

    def files(self) -> set[str]:
        return {name for names in self.packages.values() for name in names}


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = server.answer(self.command, self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST = reply

        def log_message(self, *arguments: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
