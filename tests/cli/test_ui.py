"""`ui` over plain HTTP: what it answers is what `status`, `report` and `compare` say, to whom, and from
where."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from diffadapt.core.runs import Root, Run
from diffadapt.report.compare import comparison
from diffadapt.report.summary import summarise
from diffadapt.report.table import rows_for_html
from diffadapt.ui.answers import Answers
from diffadapt.ui.guard import Guard, host_of
from tests.uikit import (
    BROKEN,
    CLASSES,
    FILTER,
    OTHER,
    PICTURED,
    SYNTH,
    furnished,
    going_on,
    opened,
    pictured_run,
    pngs,
    url,
)
from tests.unit.reportkit import fake_run

A, B = PICTURED, OTHER
SECRET = "what the machine holds and the root does not"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A root with a run that has everything, another, a sweep; beside it what must not be read."""
    outside = tmp_path_factory.mktemp("machine")
    (outside / "secret.txt").write_text(SECRET)
    folder = outside / "root"
    furnished(folder)
    return folder


@pytest.fixture(scope="module")
def page(place):
    with opened(str(place)) as base:
        yield base


def get(
    base: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """The path as it is written, nothing of it made straight by a client."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def ask(base: str, path: str, **query) -> dict:
    full = url("", path, **query)
    status, _, body = get(base, full)
    assert status == 200, body
    return json.loads(body)


# -- what it says


def test_runs_are_those_of_status_newest_first(page, place, capsys):
    from diffadapt.cli import main

    found = ask(page, "/api/runs")
    assert [r["name"] for r in found["rows"]] == Root(str(place)).names() and found["total"] == 2
    assert main(["status", "--root", str(place)]) == 0
    said = capsys.readouterr().out
    for row in found["rows"]:
        line = next(line for line in said.splitlines() if line.startswith(row["name"]))
        assert row["state"] in line and f"{row['done']}/{row['total']} shards" in line
    by_name = {r["name"]: r for r in found["rows"]}
    lead = summarise(Run(Root(str(place)), B).scores()).lead
    assert (by_name[B]["method"], by_name[B]["mean"]) == (lead.title, lead.mean)
    assert [r["name"] for r in ask(page, "/api/runs", q="PICT")["rows"]] == [A]
    assert ask(page, "/api/runs", state="failed")["rows"] == []
    assert [r["name"] for r in ask(page, "/api/runs", sort="name", limit=1, offset=1)["rows"]] == [B]


def test_scores_are_the_reports(page, place):
    root = Root(str(place))
    table = ask(page, "/api/scores", run=B)["tables"][0]
    wanted = rows_for_html(summarise(Run(root, B).scores()))
    assert [r["method"] for r in table["rows"]] == [r.method for r in wanted if not r.control] + [
        r.method for r in wanted if r.control
    ]
    assert {r["method"]: r for r in table["rows"]} == {
        r.method: json.loads(json.dumps(asdict(r))) for r in wanted
    }
    assert table["bars"][0].startswith("<svg ") and "<script" not in table["bars"][0]


def test_comparison_is_that_of_compare(page, place):
    root = Root(str(place))
    found = ask(page, "/api/compare", run=[A, B])
    wanted = json.loads(json.dumps(asdict(comparison([Run(root, A), Run(root, B)]))))
    assert {k: found[k] for k in wanted} == wanted and found["refs"] == [A, B] and len(found["charts"]) == 2
    status, _, body = get(page, f"/api/compare?run={A}")
    assert status == 400 and "two runs" in json.loads(body)["error"]


def test_pictures_of_a_stage_with_what_was_left_out(page):
    galleries = ask(page, "/api/galleries", run=A)
    assert [(s["stage"], s["shards"], s["judged"]) for s in galleries["stages"]] == [("synth", 6, True)]
    assert galleries["in_place"] == ["clean"], "read where it lies, outside the root"
    found = ask(page, "/api/pictures", run=A, stage="synth", order="planned", limit=30)
    assert len(found["pictures"]) == 30 and found["images"] == 30 and not found["next"]
    for n, p in enumerate(found["pictures"]):
        assert (p["label"], p["class"], p["seed"]) == (n % 10, CLASSES[n % 10], str(n + 1))
        assert p["reason"] == (
            "blank" if n % 7 == 3 else "CLIP does not see its class" if n % 11 == 5 else ""
        )
        assert p["prompt"] == f"a <i>drawing</i> of a {n % 10}, number {n % 3}"
    assert found["left_out"] == [["blank", 4], ["CLIP does not see its class", 3]]
    out = ask(page, "/api/pictures", run=A, stage="synth", only="out")
    kept = ask(page, "/api/pictures", run=A, stage="synth", only="kept")
    assert len(out["pictures"]) == 7 and len(kept["pictures"]) == 23
    assert {p["kept"] for p in out["pictures"]} == {False}
    assert {
        p["label"] for p in ask(page, "/api/pictures", run=A, stage="synth", **{"class": 3})["pictures"]
    } == {3}
    assert len(ask(page, "/api/pictures", run=A, stage="synth", q="i000007")["pictures"]) == 1


@pytest.mark.parametrize("order", ["sample", "newest", "planned"])
def test_pages_go_through_all_pictures_once(page, order):
    seen, after = [], ""
    for _ in range(20):
        found = ask(page, "/api/pictures", run=A, stage="synth", order=order, limit=4, after=after)
        seen += [p["key"] for p in found["pictures"]]
        assert len(found["pictures"]) <= 4
        if not (after := found["next"]):
            break
    assert len(seen) == len(set(seen)) == 30


def test_an_image_is_what_the_store_holds(page):
    found = ask(page, "/api/pictures", run=A, stage="synth", order="planned", limit=3)["pictures"][2]
    status, headers, body = get(
        page, url("", "/image", run=A, stage="synth", shard=found["shard"], row=found["row"])
    )
    assert status == 200 and body == pngs()[2] and headers["Content-Type"] == "image/png"
    assert "immutable" in headers["Cache-Control"]
    assert Image.open(io.BytesIO(body)).size == (16, 16)
    for row, shard in (
        (99, found["shard"]),
        (0, "family.json"),
        (0, "../../store.json"),
        (0, f"../{SYNTH}/x"),
    ):
        status, _, body = get(page, url("", "/image", run=A, stage="synth", shard=shard, row=row))
        assert status == 404 and "no such picture" in json.loads(body)["error"]


def test_quarantine_prompts_settings_logs_and_the_report(page, place):
    found = ask(page, "/api/quarantine", run=A)
    assert (found["total"], found["items"][0]["stages"]) == (1, ["synth"])
    assert "abcdef123456" not in json.dumps(found) and "its prompt was empty" in found["items"][0]["reason"]
    assert "token=abc" in BROKEN, "the test would prove nothing"
    prompts = ask(page, "/api/prompts", run=A, q="DRAWING", **{"class": 4})
    assert prompts["total"] == 3 and {p["class"] for p in prompts["prompts"]} == {"4"}
    assert prompts["sources"] == {"bank": 3}
    settings = ask(page, "/api/settings", run=A)
    assert settings["command"].startswith("diffadapt run quickstart --root ")
    assert "status.json" in ask(page, "/api/logs", run=A)["files"]
    status, _, body = get(page, f"/report?run={A}")
    assert status == 404 and "diffadapt report" in json.loads(body)["error"]
    from diffadapt.report.html import write_report

    write_report(Run(Root(str(place)), A))
    status, headers, body = get(page, f"/report?run={A}")
    assert status == 200 and b"diffadapt report" in body
    assert (
        "sandbox" in headers["Content-Security-Policy"]
        and "script-src" not in headers["Content-Security-Policy"]
    )


def test_a_sweep_is_the_table_of_report(page):
    assert [r["name"] for r in ask(page, "/api/sweeps")["rows"]] == ["toys-0a1b2c3d"]
    found = ask(page, "/api/sweep", sweep="toys-0a1b2c3d")
    assert (
        len(found["trials"]) == 3 and found["settings"][0]["values"] == ["2"] and found["settings"][0]["best"]
    )
    assert any(n.startswith("recommended: ") for n in found["notes"])
    trial = found["trials"][0]["id"]
    assert ask(page, "/api/run", run=f"toys-0a1b2c3d:{trial}")["name"] == trial


def test_a_run_that_goes_on_shows_shards_and_what_is_set_apart_as_they_come(tmp_path):
    root, images = Root(str(tmp_path)), pngs()
    going_on(root, "live-0123abcd", 4, 1, images=images)
    answers = Answers(str(tmp_path))

    def look(path: str, **query: str) -> dict:
        reply = answers(path, {k: [v] for k, v in {"run": "live-0123abcd", **query}.items()})
        assert reply.status == 200, reply.body
        return json.loads(reply.body)

    run = look("/api/run")
    assert (run["state"], run["done"], run["total"], run["left"]) == ("running", 1, 5, "1 min 5 s")
    assert [s["share"] for s in run["stages"]] == [0.25, 0.0] and run["stages"][0]["left"] == "1 min 5 s"
    first = look("/api/pictures", stage="synth", order="newest")
    assert (first["shards"], first["planned"], len(first["pictures"])) == (1, 4, 5)
    apart = look("/api/quarantine")
    assert apart["total"] == 1 and apart["whole"], "from the shard's footer: the run has not ended"
    answers.workshop._lists.most = 0  # as if the moment for which a listing is kept had passed
    answers.workshop._lists._values.clear()
    going_on(root, "live-0123abcd", 4, 4, images=images)
    assert look("/api/run")["stages"][1]["share"] == 0.25, "a fit's steps count"
    later = look("/api/pictures", stage="synth", order="newest")
    assert later["shards"] == 4 and len(later["pictures"]) == 20
    assert {p["key"] for p in first["pictures"]} < {p["key"] for p in later["pictures"]}


def test_states_are_said_and_damage_is_a_sentence(tmp_path):
    root = Root(str(tmp_path))
    run = going_on(root, "gone-0123abcd", 2, 1)
    status = run.status()
    run.write("status.json", json.dumps({**status, "pid": 2**22 + 1}).encode())
    other = fake_run(tmp_path, "damaged-0123abcd")
    other.write("scores.parquet", b"PAR1 nothing")
    Run(root, "empty-0123abcd").write("status.json", b"{half")
    Run(root, "odd-0123abcd").write("status.json", b'{"state": "running", "nodes": [1, 2], "updated": "x"}')
    answers = Answers(str(tmp_path))
    rows = {r["name"]: r for r in json.loads(answers("/api/runs", {}).body)["rows"]}
    assert rows["gone-0123abcd"]["state"] == "interrupted" and rows["empty-0123abcd"]["state"] == "unknown"
    assert "damaged" in rows["odd-0123abcd"]["error"]
    for path, name, status in (
        ("/api/scores", "damaged-0123abcd", 500),
        ("/api/scores", "gone-0123abcd", 404),
        ("/api/run", "nothing-0123abcd", 404),
        ("/api/pictures", "gone-0123abcd", 404),
    ):
        reply = answers(path, {"run": [name]})
        said = json.loads(reply.body)["error"]
        assert reply.status == status and said.endswith((".", "?")) and "Traceback" not in said, said


# -- to whom


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_it_only_shows(page, method):
    status, headers, _ = get(page, "/api/runs", method)
    assert status == 405 and headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200),
        ("10.1.2.3:8700", 200), ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
        ("localhost.evil.example:8700", 421),
        ("localhost@evil.example", 421), ("evil.example:127", 421),
    ],
)  # fmt: skip
def test_names_that_dns_could_bend_are_refused(page, host, status):
    assert get(page, "/api/runs", Host=host)[0] == status
    assert get(page, "/", Host=host)[0] == status


def test_the_machines_name_is_answered_where_it_was_given():
    guard = Guard(names=("gpu1.example",))
    assert guard.refuse("GET", {"host": "GPU1.example:8700"}, {}, "") is None
    assert host_of("[::1]:8700") == "::1" and host_of("::1") == "::1" and host_of("a:1") == "a"


def test_other_sites_are_refused_and_links_are_not(page):
    assert get(page, "/api/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert (
        get(page, "/image", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")[0]
        == 403
    )
    opened_by = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert get(page, "/", **opened_by)[0] == 200
    assert get(page, "/", **{**opened_by, "Sec_Fetch_Dest": "iframe"})[0] == 403


def test_headers_keep_scripts_and_frames_of_others_out(page):
    for path in ("/", "/ui.js", "/api/runs", "/nothing"):
        _, headers, _ = get(page, path)
        policy = headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    _, headers, body = get(page, "/ui.js")
    assert get(page, "/ui.js", If_None_Match=headers["ETag"])[0] == 304 and len(body) > 1000
    for file in ("/", "/ui.css", "/ui.js", "/style.css"):
        assert b"//" not in get(page, file)[2].replace(b"http://www.w3.org/2000/svg", b"").replace(
            b" // ", b""
        ).replace(b"\n// ", b"\n"), f"{file} asks elsewhere"


def test_a_token_opens_the_page_and_nothing_else_does(place):
    token = "t0ken-" + "x" * 20
    with opened(str(place), token=token, cookie="c") as base:
        for path in ("/", "/ui.js", "/api/runs", f"/report?run={A}", "/nothing"):
            assert get(base, path)[0] == 401
            assert get(base, path, Authorization="Bearer wrong")[0] == 401
            assert get(base, path, Cookie=f"c={token}")[0] == 401, "the cookie is not the token"
        assert get(base, "/api/runs", Authorization=f"Bearer {token}")[0] == 200
        status, headers, _ = get(base, f"/?token={token}")
        assert status == 303 and headers["Location"] == "/" and token not in headers["Set-Cookie"]
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert get(base, "/api/runs", Cookie=cookie)[0] == 200
        assert get(base, "/?token=%E2%82%AC")[0] == 401, "no ASCII, no traceback"
    assert "compare_digest" in (Path(sys.modules[Guard.__module__].__file__ or "").read_text())


# -- from where


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/%2e%2e%2fsecret.txt",
        "/..%252fsecret.txt",
        "//etc/passwd", "/ui.js/../../secret.txt", "/static/../secret.txt", "/..\\secret.txt", "/%00",
        "/report?run=..%2f..%2fsecret.txt", "/report?run=..", "/report?run=.", "/report?run=%2fetc",
        "/report?sweep=..", "/report?run=toys-0a1b2c3d:..", "/report?run=toys-0a1b2c3d:../../../runs",
        f"/figure?run={A}&name=../../../../secret.txt", f"/figure?run={A}&name=%2fetc%2fpasswd",
        f"/figure?run={A}&name=..%2fstatus.json", f"/image?run={A}&stage=../../x&shard=a&row=0",
        f"/image?run={A}&stage=synth&shard=..%2f..%2f..%2f..%2fsecret.txt&row=0",
        f"/image?run={A}&stage=synth&shard=%2fetc%2fpasswd&row=0", f"/api/curves?run={A}&fit=..",
        "/api/run?run=..%00", "/api/sweep?sweep=..%2fruns", "/api/run?run=", "/api/run",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_root(page, path):
    status, _, body = get(page, path)
    assert status in (400, 403, 404) and SECRET.encode() not in body and b"root:" not in body


def test_links_and_names_in_files_do_not_lead_out_either(place, tmp_path):
    root = Root(str(tmp_path / "root"))
    root.store.prepare()
    run = pictured_run(root, A)
    secret = place.parent / "secret.txt"
    runs = tmp_path / "root" / "runs"
    (runs / "linked-0123abcd").symlink_to(place / "runs" / B)
    os.makedirs(runs / "files-0123abcd" / "figures")
    (runs / "files-0123abcd" / "status.json").write_text('{"state": "finished", "nodes": {}, "updated": 1}')
    for name in ("report.html", "errors.log", "warnings.json", "figures/a.png"):
        (runs / "files-0123abcd" / name).symlink_to(secret)
    manifest = json.loads(run.read("manifest.json"))
    shards = manifest["nodes"]["synth"]["shards"]
    far = [
        str(secret),
        f"../../{secret.name}",
        f"{SYNTH}/../../../../{secret.name}",
        f"{SYNTH}/linked.parquet",
    ]
    (tmp_path / "root" / "store" / SYNTH / "linked.parquet").symlink_to(place / "store" / shards[0][3])
    for i, path in enumerate(far):
        shards[i + 1][3] = path
    run.write("manifest.json", json.dumps(manifest).encode())
    (tmp_path / "root" / "store" / FILTER / "kept.parquet").unlink()
    (tmp_path / "root" / "store" / FILTER / "kept.parquet").symlink_to(
        place / "store" / FILTER / "kept.parquet"
    )
    with opened(str(tmp_path / "root")) as base:
        listed = {r["name"]: r for r in ask(base, "/api/runs")["rows"]}
        assert "leads out of the root" in listed["linked-0123abcd"]["error"]
        for path in (
            "/api/run?run=linked-0123abcd", "/api/scores?run=linked-0123abcd", "/report?run=files-0123abcd",
            "/api/logs?run=files-0123abcd", "/figure?run=files-0123abcd&name=a.png",
            f"/image?run={A}&stage=synth&shard=linked.parquet&row=0", f"/api/pictures?run={A}&stage=synth",
        ):  # fmt: skip
            status, _, body = get(base, path)
            assert status == 403 and "leads out of the root" in json.loads(body)["error"], (path, body)
            assert SECRET.encode() not in body
        for path in far[:3]:
            assert get(base, url("", "/image", run=A, stage="synth", shard=path, row=0))[0] == 404
        for folder in ("/etc", "../..", f"{SYNTH}/../../../.."):
            shards[0][3] = f"{folder}/passwd.parquet"
            run.write("manifest.json", json.dumps(manifest).encode())
            run.write_status("finished", {"synth": {}})
            for path in (f"/api/galleries?run={A}", f"/image?run={A}&stage=synth&shard=passwd.parquet&row=0"):
                status, _, body = get(base, path)
                assert status == 403 and "leads out of the root" in json.loads(body)["error"], (path, body)


def test_a_root_behind_a_link_is_the_root(place, tmp_path):
    (tmp_path / "here").symlink_to(place)
    assert json.loads(Answers(str(tmp_path / "here"))("/api/runs", {}).body)["total"] == 2


def test_nothing_is_written(place):
    from diffadapt.core.errors import StoreError
    from diffadapt.ui.inside import InsideRoot

    store = InsideRoot(str(place)).store
    for act in (
        lambda: store.write_bytes("x", b""),
        lambda: store.create("x", b""),
        lambda: store.remove(SYNTH),
    ):
        with pytest.raises(StoreError, match="only reads"):
            act()
    before = sorted(p for p in place.rglob("*"))
    answers = Answers(str(place))
    for path in answers._paths:
        answers(path, {"run": [A], "stage": ["synth"], "sweep": ["toys-0a1b2c3d"], "fit": ["x"]})
    assert sorted(p for p in place.rglob("*")) == before


# -- the command


def test_the_command_prints_where_and_ends_at_once(place):
    words = [sys.executable, "-m", "diffadapt.cli", "ui", "--root", str(place), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        base = lines[1].split()[1].rstrip("/")
        assert ask(base, "/api/root")["runs"] == 2
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and "The page is closed." in rest and "Traceback" not in rest
    loaded = (
        "import sys, diffadapt.ui.server; assert not {'torch', 'ray'} & set(sys.modules), 'slow to start'"
    )
    assert subprocess.run([sys.executable, "-c", loaded]).returncode == 0


def test_other_addresses_get_a_token(place, monkeypatch, capsys):
    from diffadapt.cli import main
    from diffadapt.ui import server

    guards = []
    monkeypatch.setattr(
        server, "serve", lambda answers, guard, listener, ready: (guards.append(guard), ready())
    )
    for words, token in (
        ([], None), (["--host", "0.0.0.0"], "made"), (["--token", "y" * 16], "y" * 16),
        (["--host", "0.0.0.0", "--token", "z" * 20], "z" * 20),
    ):  # fmt: skip
        assert main(["ui", "--root", str(place), "--port", "0", *words]) == 0
        said = capsys.readouterr().out
        found = guards[-1].token
        assert ("?token=" in said) == bool(token) and (found in said)
        assert len(found) >= 32 if token == "made" else found == (token or "")
    assert main(["ui", "--root", str(place), "--token", "short", "--port", "0"]) == 2
    assert "can be guessed" in capsys.readouterr().err
    listener = server.listen("127.0.0.1", 0)
    try:
        assert main(["ui", "--root", str(place), "--port", str(listener.getsockname()[1])]) == 2
        assert "give another --port" in capsys.readouterr().err
    finally:
        listener.close()
