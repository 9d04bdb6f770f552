"""The three backends of language models: an endpoint, transformers, ray.data.llm; what fails ends with the
bank, said so."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import diffadapt.orchestrate  # noqa: F401  # hands in the back-end of Ray
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.stage import WorkContext
from diffadapt.prompts.backends.base import Failed, Request
from diffadapt.prompts.backends.openai import LARGEST, HttpBackend
from diffadapt.prompts.config import LlmConfig, PromptConfig
from diffadapt.prompts.prompts import make_prompts
from diffadapt.prompts.text import FALLBACK
from diffadapt.stages.prompts import Prompts

DOMAIN = "webcam photos"
LLM = PromptConfig(source="llm", llm=LlmConfig(backend="openai", model="scribe", ask=4, retries=2))


def asked(text):
    """What a request asks for: (count, category)."""
    return int(re.search(r"Write (\d+) different", text).group(1)), re.search(
        r'contains the words "(.*?)"', text
    ).group(1)


def good(count, category, seed):
    return json.dumps([f"a {category} number {i} of {seed}" for i in range(count)])


# -- an OpenAI-compatible endpoint --


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "xdg"))
    monkeypatch.setattr("diffadapt.prompts.sources.llm.PAUSE", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append((self.path, dict(self.headers), body))
            server.reply(self, body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.seen, server.reply = [], answers()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def send(handler, status, body, headers=()):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def answers(write=good):
    return lambda handler, body: send(
        handler,
        200,
        {"choices": [{"message": {"content": write(*asked(body["messages"][0]["content"]), body["seed"])}}]},
    )


def http_stage(server, **more):
    llm = replace(LLM.llm, endpoint=server.url, **{"timeout": 5.0, "retries": 1, **more})
    return Prompts(replace(LLM, llm=llm, prompts_per_class=4), ("mug", "pen"), DOMAIN)


def run(stage):
    (shard,) = stage.plan({})
    return stage.open(WorkContext("cpu")).run(shard, ())


def test_http_good(server):
    rows = run(http_stage(server))
    assert set(rows.column("source")) == {"llm (scribe)"} and len(server.seen) == 2
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sk-very-secret"
    assert (
        body["model"] == "scribe" and body["temperature"] == LLM.llm.temperature and 0 <= body["seed"] < 2**31
    )
    run(http_stage(server))
    assert len(server.seen) == 2, "the second time comes from the cache"


def trickle(handler, body):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda h, b: send(h, 500, b"oops"), "answers with status 500"),
        (lambda h, b: send(h, 429, {}), "answers with status 429"),
        (lambda h, b: send(h, 200, b"<html>"), "no chat completion"),
        (lambda h, b: send(h, 200, {"choices": []}), "no chat completion"),
        (lambda h, b: send(h, 200, {"choices": [{"message": {"content": None}}]}), "gives empty answers"),
        (answers(lambda *a: "no."), "no list of prompts"),
        (lambda h, b: h.connection.close(), "cannot be reached"),
    ],
)
def test_http_failures_end_with_the_bank(server, reply, reason, caplog):
    server.reply = reply
    with caplog.at_level(logging.DEBUG):
        rows = run(http_stage(server))
    assert (
        all(s.startswith(FALLBACK) and reason in s for s in rows.column("source")) and len(server.seen) == 4
    )
    assert rows.column("prompt")[:4] == make_prompts(PromptConfig(), "mug", DOMAIN, 0, 4, 0)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("reply", [lambda h, b: time.sleep(1.5), trickle])
def test_http_hangs_end_at_the_time_limit(server, reply):
    server.reply = reply
    rows = run(http_stage(server, timeout=0.4, retries=0))
    assert all("no answer within 0.4 s" in s for s in rows.column("source"))


def test_http_answers_without_end_are_said_to_be_too_large(server, monkeypatch):
    monkeypatch.setattr("diffadapt.prompts.backends.openai.LARGEST", 1 << 20)
    server.reply = lambda h, b: send(h, 200, b"a" * (2 << 20))
    rows = run(http_stage(server, retries=0))
    assert all("gives an answer of more than 1 MiB" in s for s in rows.column("source"))


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/hostname", "ftp://host/v1", "http://", "http://me:SEC/RET@host"]
)
@pytest.mark.parametrize("backend", ["openai", "ray", "transformers"])
def test_endpoints_are_http_alone(endpoint, backend):
    llm = replace(LLM.llm, backend=backend, endpoint=endpoint)
    with pytest.raises(RecipeError, match=r"prompts\.llm\.endpoint is .*begins with http://") as caught:
        Prompts(replace(LLM, llm=llm), ("mug", "pen")).plan({})
    assert "RET" not in str(caught.value)


def test_http_recovers_on_the_second_attempt(server):
    def first_fails(handler, body):
        answers()(handler, body) if len(server.seen) > 2 else send(handler, 503, b"busy")

    server.reply = first_fails
    assert set(run(http_stage(server)).column("source")) == {"llm (scribe)"}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            lambda h, b: send(h, 401, {"error": "sk-very-secret is wrong"}),
            "status 401.*key in OPENAI_API_KEY is not accepted",
        ),
        (lambda h, b: send(h, 404, b"no model"), "status 404.*prompts.llm.model"),
        (lambda h, b: send(h, 400, b"bad seed for sk-very-secret"), r"it says: bad seed for \*\*\*"),
        (lambda h, b: send(h, 307, b"", [("Location", "http://127.0.0.1:9/")]), "redirects"),
    ],
)
def test_http_refusals_are_the_users_to_mend(server, reply, said):
    server.reply = reply
    with pytest.raises(RecipeError, match=said) as caught:
        run(http_stage(server))
    assert "secret" not in str(caught.value)


def test_http_down_and_password_in_the_url(server):
    url = server.url.replace("http://", "http://me:pass%21@")
    backend = HttpBackend(replace(LLM.llm, endpoint=url, timeout=5.0))
    request = Request('Write 1 different x\ncontains the words "mug"', 1, 50)
    assert "mug" in backend.complete([request])[0]
    assert server.seen[0][1]["Authorization"] == "Basic bWU6cGFzcyE="
    server.shutdown()
    server.server_close()
    (failed,) = backend.complete([request])
    assert (
        isinstance(failed, Failed)
        and "cannot be reached" in failed.reason
        and "pass" not in failed.reason
        and "pass" not in json.dumps(backend.identity)
    )


# -- transformers --


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random causal model over bytes, with its tokenizer, in the hub's format."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llm")
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["</s>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1536,
        eos_token_id=vocabulary["</s>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_transformers_rubbish_ends_with_the_bank(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path))
    stage = Prompts(
        replace(LLM, prompts_per_class=2, llm=LlmConfig(model=str(tiny_model), ask=1, retries=0)),
        ("mug", "pen"),
        DOMAIN,
    )
    assert (
        stage.resources() == "gpu"
        and stage.label() == tiny_model.name
        and stage.revisions()["llm"].startswith("sha256:")
    )
    assert str(tiny_model) not in json.dumps(stage.identity())
    rows = run(stage)
    assert len(rows) == 4 and all(s.startswith(f"{FALLBACK}its answers") for s in rows.column("source"))
    assert rows.column("prompt")[:2] == make_prompts(PromptConfig(), "mug", DOMAIN, 0, 2, 0)


def test_transformers_answers_depend_on_their_own_seed_alone(tiny_model):
    from diffadapt.prompts.backends.transformers import TransformersBackend

    backend = TransformersBackend(LlmConfig(model=str(tiny_model)), "cpu")
    one, two = Request("Write some prompts.", 1, 24), Request("Write.", 2, 24)
    both = backend.complete([one, two])
    assert (
        both == [*backend.complete([one]), *backend.complete([two])]
        and both[0].startswith("[")
        and both[0] != both[1]
    )
    assert backend.complete([replace(one, seed=3)]) != both[:1]
    assert backend.complete([Request("x" * 2000, 1, 24)]) == [
        Failed("its context of 1536 tokens is too short for the request")
    ]
    backend.tokenizer.chat_template = "{% for m in messages %}U:{{ m['content'] }}{% endfor %}A:"
    assert backend._prompt("hello") == "U:helloA:"


def test_the_sampler_draws_from_the_nucleus_at_the_temperature():
    torch = pytest.importorskip("torch")
    from diffadapt.prompts.backends.transformers import _Sampler

    logits = torch.tensor([1.0, 2.0, 0.0, -3.0])
    drawn = _Sampler(list(range(4000)), 0.5, torch.device("cpu"))(None, logits.repeat(4000, 1)).argmax(-1)
    p = torch.softmax(logits / 0.5, -1)[:2]
    assert set(drawn.tolist()) == {0, 1}, "the two others lie beyond the nucleus"
    assert abs((drawn == 0).float().mean().item() - (p[0] / p.sum()).item()) < 0.02


def test_transformers_without_a_model(tmp_path):
    from diffadapt.prompts.backends.transformers import TransformersBackend

    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(WeightsError, match="no causal language model"):
        TransformersBackend(LlmConfig(model=str(tmp_path)), "cpu")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        Prompts(replace(LLM, llm=LlmConfig(model="nobody/no-such-model"))).revisions()


# -- ray.data.llm --


def test_ray_without_vllm_says_what_to_install():
    import importlib.util

    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed")
    stage = Prompts(replace(LLM, llm=LlmConfig(backend="ray", model="some/model")), ("mug", "pen"))
    with pytest.raises(RecipeError, match=r'pip install "ray\[llm\]"'):
        stage.open(WorkContext("cpu"))


@pytest.mark.slow
def test_ray_asks_an_endpoint(server):
    pytest.importorskip("aiohttp")
    from diffadapt.orchestrate.llm import RayBackend

    config = replace(LLM.llm, backend="ray", endpoint=server.url, timeout=5.0)
    backend = RayBackend(config)
    try:
        requests = [
            Request(f'Write 2 different x\ncontains the words "{c}"', i, 50)
            for i, c in enumerate(("mug", "pen"))
        ]
        assert backend.complete(requests) == [good(2, "mug", 0), good(2, "pen", 1)]
        assert server.seen[0][1]["Authorization"] == "Bearer sk-very-secret"
        server.reply = lambda h, b: send(h, 500, b"oops")
        assert [f.reason for f in backend.complete(requests)] == [f"{server.url} answers with status 500"] * 2
        server.reply = lambda h, b: send(h, 200, b"a" * (LARGEST + 1))
        assert "more than 4 MiB" in backend.complete(requests)[0].reason
        server.reply = lambda h, b: send(h, 307, b"", [("Location", f"{server.url}/elsewhere")])
        with pytest.raises(RecipeError, match="it redirects, and keys are not sent on"):
            backend.complete(requests)
        assert not [path for path, _, _ in server.seen if "elsewhere" in path]
        server.reply = lambda h, b: send(h, 401, b"no")
        with pytest.raises(RecipeError, match="status 401"):
            backend.complete(requests)
        server.shutdown()
        server.server_close()
        assert all("cannot be reached" in f.reason for f in backend.complete(requests))
    finally:
        backend.close()
