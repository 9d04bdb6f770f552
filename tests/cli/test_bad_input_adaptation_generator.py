"""Language models that are down or talk nonsense, and generators whose pictures are blank, blocked or not
numbers."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.adaptplace import AdaptPlace
from tests.cli.badinput import Result


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict]]:
    """(URL of a server on this machine, what it does: status, body, delay in seconds; requests counts)."""
    does: dict = {"status": 200, "body": b"", "delay": 0.0, "requests": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            does["requests"] += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(does["delay"])
            try:
                self.send_response(does["status"])
                self.end_headers()
                self.wfile.write(does["body"])
            except OSError:
                pass  # the asker has gone

        def log_message(self, *words) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", does
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "does, reason",
    [
        (
            {"body": b'{"choices":[{"message":{"content":"Sorry, I cannot help with that."}}]}'},
            "no list of prompts",
        ),
        ({"body": b"<html>Bad gateway</html>"}, "no chat completion"),
        ({"status": 500}, "status 500"),
        ({"delay": 1.0}, "no answer within 0.2 s"),
        (None, "cannot be reached"),
    ],
    ids=["rubbish", "html", "500", "hangs", "down"],
)
def test_a_language_model_that_fails_is_replaced_by_the_bank_and_that_is_said(
    adapt: AdaptPlace, endpoint, does: dict | None, reason: str
) -> None:
    url, server = endpoint
    server.update(does or {})
    shutil.rmtree(adapt.root / "store" / "prompts", ignore_errors=True)
    result = adapt.short(
        "--prompts.source",
        "llm",
        "--prompts.llm.backend",
        "openai",
        "--prompts.llm.model",
        "m",
        "--prompts.llm.timeout",
        "0.2",
        "--prompts.llm.retries",
        "1",
        "--prompts.llm.endpoint",
        url if does else "http://127.0.0.1:9/v1",
        classes=adapt.text("two.txt", "zero", "one"),
    )
    assert result.status == 0, result.text
    assert server["requests"] >= 2 if does else True, "it was asked again"
    for where in (
        result.output,
        " ".join(adapt.warnings()),
        (adapt.last() / "report.html").read_text(encoding="utf-8"),
    ):
        assert "the language model failed" in where and reason in where and "4 of 4 prompts" in where
    assert result.output.count("the language model failed") == 1


@pytest.fixture(scope="module")
def painter(adapt: AdaptPlace) -> Callable[[str, float], Path]:
    """A copy of the generator whose decoder's last weights are all one number."""

    def make(name: str, value: float) -> Path:
        shutil.copytree(adapt.folder / "generator", adapt.folder / name)
        file = adapt.folder / name / "vae" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        state["decoder.conv_out.weight"].fill_(value)
        save_file(state, file, metadata={"format": "pt"})
        return adapt.folder / name

    return make


def test_blank_pictures(adapt: AdaptPlace, painter) -> None:
    generator = painter("blank", 0.0)
    adapt.short(generator=generator).sentence(
        "filter", "No image of 'zero', 'one'", "blank", "is left for training"
    )
    assert any((adapt.root / "store" / "synth").rglob("*.parquet")), "the pictures are kept"
    assert adapt.short("--filters.blank", "False", generator=generator).status == 0


def test_pictures_that_are_not_numbers(adapt: AdaptPlace, painter) -> None:
    adapt.short(generator=painter("nan", float("nan"))).sentence(
        "synth quarantined 20 of 20", "NaN or infinity", "generator.precision"
    )


@pytest.fixture
def checked(adapt: AdaptPlace, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], Result]:
    """A run with a safety checker that blocks the n-th picture it sees if told so."""
    import diffusers.pipelines.stable_diffusion.safety_checker as safety
    from tinypipelines import stable_diffusion

    def run(blocks: Callable[[int], bool]) -> Result:
        seen = iter(range(1000))
        monkeypatch.setattr(
            safety.StableDiffusionSafetyChecker,
            "forward",
            lambda self, clip_input, images: (images, [blocks(next(seen)) for _ in images]),
        )
        if not (adapt.folder / "checked").exists():
            stable_diffusion(adapt.folder / "checked", safety=True)
        return adapt.short(
            "--generator.safety-checker",
            "True",
            "--generator.images-per-class",
            "3",
            generator=adapt.folder / "checked",
        )

    return run


def test_blocked_pictures(adapt: AdaptPlace, checked) -> None:
    checked(lambda n: True).sentence("synth quarantined 30 of 30", "safety checker blocked the picture")
    result = checked(lambda n: n == 1)
    assert result.status == 0 and "quarantine.jsonl" in result.output, result.text
    assert [("safety checker" in item["reason"]) for item in adapt.failed() if item["node"] == "synth"] == [
        True
    ]
    assert checked(lambda n: False).status == 0, "what was blocked is not asked for again"
