"""What Ray does not promise is asked for in one file, and done without where a version has it otherwise."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

import diffadapt
from diffadapt.core.errors import ResourceError
from diffadapt.orchestrate import bundle, capacity, connection, internals, jobs, tune_settings
from diffadapt.run.runner import ExecutionConfig

PACKAGE = Path(diffadapt.__file__).parent


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Take the first name of a piece away, as another version of Ray might."""

    def take(name: str) -> list[str]:
        piece = internals.PIECES[name]
        path, _, rest = piece.names[0].partition("(")
        names = (f"{path}_gone({rest}" if rest else f"{path}_gone", *piece.names[1:])
        monkeypatch.setitem(internals.PIECES, name, replace(piece, names=names))
        monkeypatch.setattr(internals, "_said", set())
        caplog.set_level(logging.WARNING)
        return caplog.messages

    return take


def test_no_other_file_leans_on_internals() -> None:
    leaning = re.compile(r"^\s*(?:from|import) ray\.[\w.]*\b_(?:private|internal)\b", re.MULTILINE)
    assert [str(f) for f in PACKAGE.rglob("*.py") if leaning.search(f.read_text())] == []


def test_this_ray_has_all_of_them() -> None:
    assert internals.missing() == [] and all(internals.piece(name) for name in internals.PIECES)


@pytest.mark.parametrize("name", sorted(internals.PIECES))
def test_a_missing_piece_is_said_once(without, name: str, caplog: pytest.LogCaptureFixture) -> None:
    without(name)
    assert internals.piece(name) is None and internals.piece(name) is None
    assert len(caplog.messages) == 1 and internals.PIECES[name].loss in caplog.messages[0]
    assert internals.missing() == [f"{internals.PIECES[name].loss} ({name})"]


def test_a_piece_that_takes_other_parameters_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ray._private.runtime_env.packaging._dir_travel", lambda path, excludes, handler: None
    )
    assert [s for s in internals.missing() if "ignored files" in s]


def test_jobs_are_packed_without_them(without, tmp_path: Path) -> None:
    for name in ("a.py", "__pycache__/a.pyc", "sub/b.py", "tests/t.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def listed() -> set[str]:
        return {path.as_posix() for path in bundle._listed(tmp_path, "n").values()}

    usual = listed()
    without("ignored files"), without("upload limit")
    assert listed() == usual == {"n/a.py", "n/sub/b.py"}
    with bundle.bundle({}) as made:
        assert made.size > 0


def test_nodes_are_counted_without_them(without) -> None:
    without("accelerators"), without("node groups"), without("kuberay")
    assert capacity.this_machine()["GPU"] >= 0 and capacity._reported() is None
    assert capacity._of_kuberay("name") is None


def test_runs_and_searches_go_without_them(without) -> None:
    without("processes"), without("lost trials")
    assert connection._witness(own=True) is None
    with tune_settings.tune_environment({}):
        pass


def test_a_job_client_of_another_kind_is_refused(without) -> None:
    without("job client")
    with pytest.raises(ResourceError, match=r"job client of Ray .*pip install 'ray\["):
        jobs.JobServer("http://127.0.0.1:9")
    assert internals.websocket(object()) is None


@pytest.mark.parametrize(
    ("theirs", "python", "mend"),
    [("2.41.0", None, r"install ray\[.*\]==2\.41\.0 here, start"), (None, "3.9.1", r"Python 3\.9\.1, start")],
)
def test_a_cluster_of_other_versions_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, theirs: str | None, python: str | None, mend: str
) -> None:
    ours = ".".join(map(str, __import__("sys").version_info[:3]))
    cluster = {"ray_version": theirs or ray.__version__, "python_version": python or ours}

    def init(**_: object) -> None:
        check_version_info(cluster, "10.0.0.1:6379")

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection, "_demand_address", lambda address: None)
    made = connection.Connection(ExecutionConfig(device="cpu", address="head:6379"))
    with pytest.raises(ResourceError, match=mend) as caught:
        made.open()
    text = str(caught.value)
    assert "\n" not in text and all(v in text for v in (*cluster.values(), ray.__version__, ours, "submit"))
