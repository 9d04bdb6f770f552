"""The door of a served run: forms of requests, limits, one sentence and the right status for each refusal."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import numpy as np
import pytest
import requests
from PIL import Image

from diffadapt.core.errors import ResourceError
from diffadapt.core.upload import Refused, images_of
from diffadapt.data.image import MAX_PIXELS_VARIABLE, encode_png
from diffadapt.run.door import Door, Limits, Unavailable

PNG = encode_png(np.full((4, 4), 7, np.uint8))
OTHER = encode_png(np.full((4, 4), 9, np.uint8)) + b"\r\n--"  # bytes that look like a boundary
ABOUT = {"run": "toy-1", "row": ""}


def sent(**request) -> tuple[str, bytes]:
    """Content type and body as requests, a foreign client, writes them."""
    made = requests.Request("POST", "http://localhost/predict", **request).prepare()
    return made.headers["Content-Type"], made.body


def test_forms_of_other_clients_are_read():
    files = [("image", ("a b.png", PNG)), ("x", ("ä.png", OTHER, "image/png")), ("image", (None, PNG))]
    found = images_of(*sent(files=files, data={"note": "no image"}))
    digest = found[2][0]
    assert [d for _, d in found] == [PNG, OTHER, PNG] and found[0][0] == "a b.png" and len(digest) == 32
    kserve = {"instances": [{"image_bytes": {"b64": base64.b64encode(PNG).decode()}, "name": "n.png"}]}
    assert images_of(*sent(json=kserve)) == [("n.png", PNG)]
    assert images_of(*sent(json=["data:image/png;base64," + base64.b64encode(PNG).decode()])) == [
        (digest, PNG)
    ]
    assert images_of("image/png", PNG, "c/d.png") == [("c/d.png", PNG)] and images_of("", PNG) == [
        (digest, PNG)
    ]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/html", b"", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=b", b"--b", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n--b--", 400),
        ("application/json", b"{", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b"[]", 400),
        ("application/json", b"3", 400),
        ("application/json", b'[{"b64": "???"}]', 400),
        ("application/json", b'[{"name": "\\ud800", "b64": "AA=="}]', 400),
    ],
)
def test_other_forms_are_refused(kind, body, status):
    with pytest.raises(Refused) as error:
        images_of(kind, body)
    assert error.value.status == status and str(error.value).endswith(".")


async def stream(data: bytes):
    for i in range(0, len(data), 50):
        yield data[i : i + 50]


async def even(images):
    return [{"path": name, "label": len(data) % 2} for name, data in images]


async def yes() -> bool:
    return True


def call(
    door: Door,
    body: bytes = PNG,
    kind: str = "image/png",
    path: str = "/predict",
    method: str = "POST",
    **more,
):
    headers = {"content-type": kind, **more}
    return asyncio.run(door(method, path, "name=one.png", headers, stream(body)))


def test_a_request_is_answered_in_its_order_and_what_is_unreadable_says_so():
    seen, asked = [], []

    async def ask(images):
        asked.append(len(images))
        return await even(images)

    door = Door(ABOUT, Limits(batch=2), ask, yes, observe=seen.append)
    kind, body = sent(files=[("f", (f"{i}.png", PNG if i != 1 else b"none")) for i in range(4)])
    reply = call(door, body, kind)
    rows = reply.content["predictions"]
    assert reply.status == 200 and [r["path"] for r in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert "1.png is not a readable image" in rows[1]["reason"] and asked == [2, 1]
    assert (seen[0].status, seen[0].answered, seen[0].refused) == (200, 3, 1)
    for path in ("/v1/models/toy-1:predict", "/predictions/toy-1"):  # KServe's and TorchServe's
        assert call(door, path=path).content["predictions"][0]["path"] == "one.png"


def test_refusals_have_their_status(monkeypatch):
    door = Door(ABOUT, Limits(body_bytes=400, images=2), even, yes)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1000")
    large, three = encode_png(np.zeros((40, 40), np.uint8)), sent(json=[base64.b64encode(PNG).decode()] * 3)
    told = {"content-length": "401"}
    cases = [
        (call(door, large), 413, "claims 40 x 40 pixels"),
        (call(door, b"x" * 401), 413, "The body is larger"),
        (call(door, **told), 413, "The body is larger"),
        (call(door, three[1], three[0]), 413, "holds 3 images"),
        (call(door, b"hello"), 415, "no image format"),
        (call(door, b""), 400, "is empty"),
        (call(door, path="/no"), 404, "nothing at /no"),
        (call(door, method="GET"), 405, "takes POST"),
    ]
    for reply, status, words in cases:
        assert reply.status == status and words in reply.content["error"], reply
        assert list(reply.content) == ["error"] and "\n" not in reply.content["error"]


def test_what_no_replica_answers_is_said():
    async def gone(images):
        raise Unavailable("No replica could answer: ask again later.")

    async def full(images):
        raise ResourceError("Even one image does not fit.")

    async def slow(images):
        await asyncio.sleep(9)

    async def broken(images):
        raise KeyError("secret")

    async def no() -> bool:
        raise OSError

    for ask, status in ((gone, 503), (full, 500), (slow, 503), (broken, 500)):
        reply = call(Door(ABOUT, Limits(seconds=0.02), ask, no))
        assert (
            reply.status == status
            and reply.content["error"].endswith(".")
            and "secret" not in str(reply.content)
        )
    door = Door(ABOUT, Limits(), even, no)
    ready = {"path": "/readyz", "method": "GET"}
    assert call(door, **ready).status == 503 and call(door, path="/healthz", method="GET").status == 200
    assert call(door).status == 200 and call(door, **ready).status == 200  # who answers is ready


def test_more_requests_than_may_wait_are_told_to_come_later():
    async def together():
        free = asyncio.Event()

        async def ask(images):
            await free.wait()
            return await even(images)

        door = Door(ABOUT, Limits(waiting=2), ask, yes)
        asked = [
            asyncio.ensure_future(door("POST", "/predict", "", {"content-type": "image/png"}, stream(PNG)))
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        free.set()
        return [reply.result().status for reply in done], sorted(
            [r.status for r in await asyncio.gather(*asked)]
        )

    assert asyncio.run(together()) == ([503], [200, 200, 503])


def test_a_token_is_asked_for():
    door = Door(ABOUT, Limits(), even, yes, token="open")
    assert call(door).status == 401 and call(door, authorization="Bearer shut").status == 401
    assert call(door, authorization="Bearer open").status == 200
    assert call(door, path="/healthz", method="GET").status == 200


def test_an_answer_is_json_as_it_stands():
    door = Door(ABOUT, Limits(), even, yes)
    out = io.BytesIO()
    Image.new("RGB", (3, 2)).save(out, "JPEG")
    assert json.loads(json.dumps(call(door, out.getvalue(), "image/jpeg").content))["run"] == "toy-1"
