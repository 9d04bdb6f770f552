"""Runs and sweeps on shared storage: an S3 server, odd characters in paths, resuming there, and no secret in
any file."""

from __future__ import annotations

import io
import json
import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import fsspec
import pyarrow.parquet as pq
import pytest

from diffadapt.cli import main
from diffadapt.core import ledger
from diffadapt.core.errors import StoreError
from diffadapt.core.recipes import read_file
from diffadapt.core.runs import Root
from diffadapt.core.store import Store
from diffadapt.sweeps.folder import Sweep, sweeps
from diffadapt.sweeps.space import Choice, Space
from tests.unit.corekit import PlainRunner, Shifted, run_toy
from tests.unit.sweepkit import SPACE, Guess, Guesses, run_toy_sweep

PART = "a b/Größe 図/50% off+more#1 [x] {y}"
"""Of a path: blanks, letters beyond ASCII, and what a URL, a glob or a template would take for its own."""
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENGbPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEXAMPLEsession",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz123456",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}
URL_SECRETS = ("pa55word-of-the-url", "s1gnature-of-the-url")
FEW = Space({"guess.spread": Choice(0.5, 2.0)})


@dataclass
class Files:
    """Every file under a place, by its name there."""

    url: str

    def names(self) -> list[str]:
        fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        return sorted(p.removeprefix(path.rstrip("/") + "/") for p in fs.find(path))

    def contents(self) -> dict[str, bytes]:
        fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        return {p.removeprefix(path.rstrip("/") + "/"): fs.cat_file(p) for p in fs.find(path)}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch) -> None:
    """Copies of trained models that other tests left in this machine's temporary folder are not found."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def bucket(request, tmp_path) -> str:
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def rows(sweep: Sweep) -> list[dict]:
    """The sweep's table without what depends on the hour."""
    table = pq.read_table(io.BytesIO(sweep.read("sweep.parquet"))).to_pylist()
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "device_hours", "made", "found")}
        for row in table
    ]


def test_removal_takes_a_name_literally(bucket):
    store, other = Store(f"{bucket}/store[12]"), Store(f"{bucket}/store1")
    for place in (store, other):
        place.write_bytes("kind/folder/file", b"content")
    store.remove("kind/folder")
    assert not store.exists("kind/folder/file") and other.exists("kind/folder/file")
    store.remove("kind/folder")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_run_under_any_name(tmp_path, request, kind):
    place = f"{request.getfixturevalue('bucket')}/{PART}" if kind == "s3" else str(tmp_path / PART)
    with pytest.raises(KeyboardInterrupt):
        run_toy(place, Shifted(), PlainRunner(stop_after=4))
    run, runner = run_toy(place, Shifted())
    plain, _ = run_toy(tmp_path / "plain", Shifted())
    assert sum(r.status == "made" for r in runner.receipts) == 10 - 4 and run.read(
        "manifest.json"
    ) == plain.read("manifest.json")
    here, there = Files(str(tmp_path / "plain" / "store")), Files(posixpath.join(place, "store"))
    assert here.contents() == there.contents()
    assert Root(place).run("last").name == run.name and len(ledger.read(run.root.ledger)) == 10
    assert run_toy(place, Shifted())[1].receipts == []


def check_sweep(place: str, local: str, space: Space, stop: int, together: int) -> Sweep:
    """Carry ``space`` out under ``place``, killed after ``stop`` shards and resumed; compare with a sweep
    under ``local``."""

    class Dies(PlainRunner):
        made = 0

        def _pass(self, receipt, on_receipt):
            super()._pass(receipt, on_receipt)
            Dies.made += receipt.status == "made"
            if Dies.made == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_toy_sweep(place, space, runner=lambda execution: Dies())
    (name,) = sweeps(Root(place))
    assert Sweep(Root(place), name).status()["state"] == "interrupted"
    made: list[PlainRunner] = []

    def runner(execution):
        made.append(PlainRunner())
        return made[-1]

    sweep = run_toy_sweep(place, space, runner=runner)
    receipts = [r for one in made for r in one.receipts if r.status == "made"]
    assert len(receipts) == together - stop and sweep.name == name, "nothing finished is made again"
    whole = run_toy_sweep(local, space)
    assert rows(sweep) == rows(whole) and len(rows(sweep)) == len(sweep.results()) and whole.name == name
    assert json.loads(sweep.read("recommended.json")) == json.loads(whole.read("recommended.json"))
    assert b"<html" in sweep.read("report.html").lower()
    assert Files(f"{local}/store").contents() == Files(f"{place}/store").contents(), (
        "a sweep elsewhere makes the same bytes"
    )
    mine, theirs = (
        {n.partition("/tensorboard")[0] for n in Files(f"{p}/sweeps").names()} for p in (place, local)
    )
    assert mine == theirs
    made.clear()
    run_toy_sweep(place, space, runner=runner)
    assert made == [], "a third time nothing is left"
    return sweep


def test_a_sweep_on_s3_resumes_and_its_results_are_read_there(tmp_path, secrets, capsys):
    """The same files hold no credential of the environment."""
    place = f"{secrets}/sweeps of ä"
    sweep = check_sweep(place, str(tmp_path / "local"), FEW, 5, 3 + 1 + 2 * 3)
    name, overrides = read_file(f"{sweep.url}/recommended.json")
    assert name == "guesses" and overrides["guess.spread"] in (0.5, 2.0)
    files = Files(place).contents()
    assert len(files) > 30 and found_in(files) == []
    out = capsys.readouterr()
    assert not [s for s in SECRETS.values() if s in out.out + out.err]


@pytest.mark.slow
def test_a_sweep_over_two_fields_on_s3(tmp_path, bucket):
    check_sweep(f"{bucket}/{PART}", str(tmp_path / "local"), SPACE, 5, 2 * 3 + 2 + 2 * 3 * 3)


def test_a_sweep_under_any_local_name(tmp_path):
    check_sweep(str(tmp_path / PART), str(tmp_path / "plain"), FEW, 5, 3 + 1 + 2 * 3)


# -- secrets
# -------------------------------------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch, request) -> Iterator[str]:
    """Credentials in the environment, of the S3 server too; gives a bucket."""
    place = request.getfixturevalue("bucket")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    known = fsspec.get_filesystem_class("s3")
    known.clear_instance_cache()
    yield place
    known.clear_instance_cache()


def found_in(files: dict[str, bytes], *more: str) -> list[tuple[str, str]]:
    """(file, secret) of every secret in a file's bytes, decompressed where it is Parquet, or in its name."""
    found = []
    for name, data in files.items():
        text = name + data.decode(errors="replace")
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            text += str(table.to_pylist()) + str(table.schema.metadata)
        found += [(name, s) for s in (*SECRETS.values(), *more) if s in text]
    return found


def test_no_credential_of_a_url_is_written(tmp_path, capsys):
    """A path that a trial varies may carry a login or a signature: the trials differ by it, and nobody sees
    it."""
    urls = [f"https://user:{URL_SECRETS[0]}@host/{n}?X-Amz-Signature={URL_SECRETS[1]}&n={n}" for n in "ab"]
    space = Space({"guess.mode": Choice(*urls)}, base={"guess.spread": 2.0})
    sweep = run_toy_sweep(
        tmp_path, space, {"guesses": Guesses(guess=Guess(mode=f"hub {SECRETS['HF_TOKEN']}"))}, say=print
    )
    assert len(sweep.results()) == 2 and [r.status for r in sweep.results()] == ["finished"] * 2
    assert found_in(Files(str(tmp_path)).contents(), *URL_SECRETS) == []
    out = capsys.readouterr()
    assert not [s for s in (*SECRETS.values(), *URL_SECRETS) if s in out.out + out.err]


def test_no_credential_of_an_error_is_written(tmp_path, capsys):
    class Refused(PlainRunner):
        def run_chains(self, chains, stages, store, on_receipt):
            raise StoreError(
                f"The host https://user:{URL_SECRETS[0]}@host refused the token {SECRETS['HF_TOKEN']}."
            )

    with pytest.raises(StoreError):
        run_toy_sweep(tmp_path, FEW, runner=lambda execution: Refused(), say=print)
    files = Files(str(tmp_path)).contents()
    assert files and found_in(files, *URL_SECRETS) == []
    out = capsys.readouterr()
    assert not [s for s in (*SECRETS.values(), *URL_SECRETS) if s in out.out + out.err]


# -- places that cannot be opened
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, package",
    [
        ("az://container/a b", "adlfs"),
        ("abfs://user:pa55word-of-the-url@account.dfs.core.windows.net/x", "adlfs"),
        ("gs://bucket/x", "gcsfs"),
        ("nope://x", "nope"),
    ],
)
def test_a_missing_package_is_named(url, package):
    import importlib.util

    if package in ("adlfs", "gcsfs") and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(StoreError, match=package) as caught:
        Store(url)
    assert URL_SECRETS[0] not in str(caught.value)


def test_a_bucket_that_is_not_there_is_one_sentence(bucket):
    with pytest.raises(StoreError, match="no-such-bucket-of-ours"):
        run_toy_sweep("s3://no-such-bucket-of-ours/x", FEW)


# -- garbage
# -------------------------------------------------------------------------------------------------------


def gc(root: str, *words: str) -> str:
    import contextlib

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["cache", "gc", "--older-than-hours", "0", "--root", root, *words]) == 0
    return out.getvalue()


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.slow)])
def test_gc_spares_what_sweeps_refer_to(tmp_path, request, kind):
    place = request.getfixturevalue("bucket") + "/gc" if kind == "s3" else str(tmp_path)
    sweep = run_toy_sweep(place, FEW)
    kept = Files(f"{place}/store").contents()
    orphan, _ = run_toy(place, replace(Shifted(), seed=3), name="orphan")
    assert len(Files(f"{place}/store").names()) > len(kept)
    orphan.root.runs.remove(orphan.name)
    assert "would free" in gc(place, "--dry-run") and len(Files(f"{place}/store").names()) > len(kept)
    gc(place)
    left = Files(f"{place}/store").contents()
    assert {n for n in left if not n.endswith("family.json")} == {
        n for n in kept if not n.endswith("family.json")
    }
    sweep.remove("planned.json")
    gc(place)
    assert set(Files(f"{place}/store").names()) >= {n for n in kept if n.endswith(".parquet")}, (
        "the trials refer to them too"
    )
    Root(place).sweeps.remove(sweep.name)
    gc(place)
    assert not [n for n in Files(f"{place}/store").names() if n.endswith(".parquet")]


def test_gc_waits_for_a_sweep(tmp_path, capsys):
    import os
    import time

    sweep = run_toy_sweep(tmp_path, FEW)
    sweep.write(
        "status.json",
        json.dumps(
            {"state": "running", "updated": time.time(), "pid": os.getpid(), "host": os.uname().nodename}
        ).encode(),
    )
    assert main(["cache", "gc", "--root", str(tmp_path)]) == 2
    assert f"The sweep {sweep.name} is in progress" in capsys.readouterr().err
    sweep.write("status.json", b"{}")
    sweep.write("planned.json", b"{half")
    assert main(["cache", "gc", "--root", str(tmp_path)]) == 2
    assert "planned.json" in capsys.readouterr().err


def test_gc_merges_the_ledger(tmp_path):
    from tests.unit.test_ledger import entry, put

    run_toy(tmp_path)
    root = Root(str(tmp_path))
    for i in range(30):
        put(root.ledger, entry(f"d{i}"), age=7200)
    before = ledger.by_digest(root.ledger)
    assert (
        "30 files of the ledger are one now" in gc(str(tmp_path)) and ledger.by_digest(root.ledger) == before
    )
    assert len(root.ledger.list("")) <= 8


def test_why_tells_trials_apart(tmp_path, capsys):
    sweep = run_toy_sweep(tmp_path, FEW)
    first, second = (f"{sweep.name}/{r.id}" for r in sweep.results())
    assert main(["cache", "why", first, second, "--root", str(tmp_path)]) == 0
    assert "guess.spread: 0.5 | 2.0" in capsys.readouterr().out
