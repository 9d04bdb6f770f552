"""What the Hugging Face client needs of a Hub to push a folder, on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 30


class Hub(ThreadingHTTPServer):
    """``repos``: name -> its files; ``refuse``: the status of every request, if any; ``asked``: what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.refuse = 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _say(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        if hub.refuse:
            return self._say({"error": "no"}, hub.refuse)
        if not path.startswith("/large/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say({"error": "no token"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                f"{asked.get('organization')}/{asked['name']}" if asked.get("organization") else asked["name"]
            )
            name = f"{asked.get('type', 'model')}s/{name}"
            if name in hub.repos:
                return self._say({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
            hub.repos[name] = {}
            hub.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return self._say({"url": f"{hub.url}/{name.removeprefix('models/')}", "name": name})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if path.startswith("/large/"):
            hub.large[path.rpartition("/")[2]] = body
            return self._say({})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            made = [{**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}} for o in objects]
            return self._say({"transfer": "basic", "objects": made})
        parts = path.split("/")
        name = "/".join(parts[2:5])
        if name not in hub.repos:
            return self._say({"error": "Repository not found"}, 404)
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None} for f in files
            ]  # fmt: skip
            return self._say({"files": modes})
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    hub.repos[name][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    hub.repos[name][value["path"]] = hub.large[value["oid"]]
            return self._say(
                {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True}
            )
        kind = parts[2]
        self._say({
            "id": "/".join(parts[3:5]), "private": hub.private[name], "sha": "0" * 40, "siblings": [],
            "tags": [], "downloads": 0, "likes": 0, "_id": "0", kind: "",
        })  # fmt: skip

    do_GET = do_POST = do_PUT = do_HEAD = _handle


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
