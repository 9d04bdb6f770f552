"""The page over an object store: the same answers, nothing beyond the root."""

from __future__ import annotations

import json

import fsspec
import pytest

from diffadapt.core.runs import Root
from diffadapt.ui.answers import Answers
from diffadapt.ui.inside import InsideRoot, Outside
from tests.uikit import SYNTH, going_on, pictured_run, pngs
from tests.unit.reportkit import fake_manifest, fake_run

A, LIVE = "pictured-0123abcd", "live-0123abcd"


@pytest.fixture(scope="module")
def place(s3) -> str:
    location = f"{s3}/page"
    root = Root(location)
    root.store.prepare()
    pictured_run(root, A)
    fsspec.filesystem("s3").pipe_file("bucket/secret.txt", b"not of the root")
    return location


def look(answers: Answers, path: str, **query: str) -> dict:
    reply = answers(path, {k: [v] for k, v in query.items()})
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def test_runs_scores_and_pictures_are_read_from_s3(place):
    answers = Answers(place)
    answers.index.fresh(30)
    rows = look(answers, "/api/runs")["rows"]
    assert [(r["name"], r["state"], r["done"]) for r in rows] == [(A, "finished", 8)]
    assert look(answers, "/api/scores", run=A)["tables"][0]["rows"]
    found = look(answers, "/api/pictures", run=A, stage="synth", order="planned")
    assert len(found["pictures"]) == 30 and found["left_out"][0] == ["blank", 4]
    first = found["pictures"][0]
    reply = answers("/image", {"run": [A], "stage": ["synth"], "shard": [first["shard"]], "row": ["0"]})
    assert reply.body == pngs()[0]
    assert look(answers, "/api/prompts", run=A)["total"] == 30


def test_a_run_that_goes_on_is_asked_for_again(s3):
    root = Root(f"{s3}/live")
    going_on(root, LIVE, 3, 1)
    answers = Answers(root.location)
    answers.index.runs.look()
    assert answers.index.runs.entries[LIVE].done == 1
    going_on(root, LIVE, 3, 2)
    answers.index.runs.look()
    assert answers.index.runs.entries[LIVE].done == 2, "no time of a file was needed"
    assert len(look(answers, "/api/pictures", run=LIVE, stage="synth", order="newest")["pictures"]) == 10


def test_names_in_files_do_not_lead_to_other_keys(place):
    store = InsideRoot(place).store
    for name in ("../../secret.txt", "/bucket/secret.txt", f"{SYNTH}/../../../../secret.txt", "a\0b"):
        with pytest.raises(Outside, match="leads out of the root"):
            store.read_bytes(name)
    manifest = fake_manifest()
    manifest["nodes"]["aligned"]["shards"] = [["a", "0" * 16, 5, "../../secret.parquet"]]
    fake_run(place, "far-0123abcd", manifest=manifest)
    reply = Answers(place)("/api/galleries", {"run": ["far-0123abcd"]})
    assert reply.status == 403 and "leads out of the root" in json.loads(reply.body)["error"]
