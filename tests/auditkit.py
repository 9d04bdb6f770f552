"""A finished run of classification whose predictions were drawn, not trained: 400 images, four rows. And a
Chromium that is driven through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import LOGITS_SCHEMA, Rows, image_table
from diffadapt.core.manifest import FORMAT
from diffadapt.core.runs import Root, Run
from diffadapt.data.image import encode_png

CLASSES = ("back pack", "bike", "=helmet", "mug")
NAME = "adapt_anything-drawn-0123abcd"
RIGHT = {"Source only": 0.62, "MCC": 0.84, "MCC + FixMatch": 0.87, "Source only + FixMatch": 0.63}


def drawn_run(
    place: Path, images: int = 400, labelled: bool = True, seeds: int = 1, classes=CLASSES, groups=("",)
) -> tuple[Run, np.ndarray]:
    """(run, true labels by the order of keys). The rows' errors go together, as those of real models do; the
    images' names say nothing of the class."""
    rng = np.random.default_rng(3)
    root = Root(str(place))
    root.store.prepare()
    root.runs.prepare()
    truth = rng.integers(len(classes), size=images)
    hard = rng.random(images)
    keys = [f"target/0/{i:04d}.png" for i in range(images)]
    labels = [int(t) if labelled else None for t in truth]
    nodes: dict[str, Any] = {}

    def node(name: str, kind: str, inputs: list[str], table: pa.Table) -> None:
        path = f"{kind}/{name}-x/target-0-000-{name}.parquet"
        root.store.commit(path, Rows(table), {})
        nodes[name] = {
            "kind": kind, "version": 1, "identity": {}, "revisions": {}, "inputs": inputs, "family": name,
            "shards": [["target-0-000", name, images, path]], "quarantined": [],
        }  # fmt: skip

    pictures = [
        encode_png(np.full((12, 12, 3), (40 * t, i % 256, 200), np.uint8)) for i, t in enumerate(truth)
    ]
    node("target", "corrupted", [], image_table(keys, labels, pictures, [0] * images))
    rows = []
    for seed in range(seeds):
        for i, (name, share) in enumerate(RIGHT.items()):
            sure = np.clip(share + 0.25 - hard + 0.05 * rng.standard_normal(images), -1, 1)
            right = hard + 0.06 * rng.standard_normal(images) < share
            predicted = np.where(
                right, truth, (truth + 1 + rng.integers(len(classes) - 1, size=images)) % len(classes)
            )
            logits = rng.normal(0, 0.3, (images, len(classes)))
            logits[np.arange(images), predicted] += 1.0 + 3 * np.maximum(sure, 0)
            tag = f"row{i}.s{seed}"
            nodes[f"model.{tag}"] = {**nodes["target"], "kind": "uda", "inputs": ["target"]}
            values = pa.array(logits.tolist(), pa.list_(pa.float32()))
            node(
                tag,
                "logits",
                ["target", f"model.{tag}"],
                pa.table([keys, labels, values], schema=LOGITS_SCHEMA),
            )
            row = {"name": name, "members": [tag], "note": "", "control": i == 3, "images_of": ""}
            row |= {
                "group": groups[i % len(groups)],
                "seed": seed,
                "selection": "last",
                "metric": "top1",
                "role": {},
            }
            rows.append(row)
    manifest = {"format": FORMAT, "recipe": "adapt_anything/drawn", "seed": 0, "config": {}, "nodes": nodes}
    manifest |= {"class_names": list(classes), "outputs": {"target": "target"}, "rows": rows}
    manifest |= {"system": "adapt_anything", "versions": {}}
    run = Run(root, NAME)
    run.write("manifest.json", json.dumps(manifest).encode())
    scores = {
        f"row{i}.s0": {"entropy": v, "im": w}
        for i, (v, w) in enumerate(zip((3, 2, 1), (1, 2, 3), strict=True))
    }
    run.write("validators.json", json.dumps({"nodes": scores}).encode())
    run.write_status("finished", {})
    return run, truth


class Browser:
    """A headless Chromium, spoken to over its debugging pipe; None of it needs a package."""

    def __init__(self, folder: Path):
        self.program = (
            shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        )
        assert self.program
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        words = f"exec 3<&{read} 4>&{write}; exec {self.program} --headless --no-sandbox --disable-gpu"
        words += f" --disable-dev-shm-usage --remote-debugging-pipe --user-data-dir={folder / 'profile'}"
        words += " about:blank"
        self.process = subprocess.Popen(
            ["bash", "-c", words],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read), os.close(write)
        self._buffer, self._count, self.session = b"", 0, ""
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in pages if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._in, 1 << 20)
                assert data, "the browser ended"
                self._buffer += data
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, code: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(code):
            assert time.monotonic() < end, f"{code} did not come true"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def press(self, *keys: str, control: bool = False) -> None:
        for key in keys:
            text = (
                {"text": key} if len(key) == 1 and not control else {"text": "\r"} if key == "Enter" else {}
            )
            for kind in ("keyDown", "keyUp"):
                also = text if kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=2 if control else 0, **also)

    def picture(self, file: Path, width: int = 1280, height: int = 860, dark: bool = False) -> None:
        """A screenshot at that size."""
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._in), os.close(self._out)
