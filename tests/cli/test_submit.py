"""`diffadapt submit`: what it reads, refuses and sends. Over the real job server: tests/ray/test_job.py."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from diffadapt.cli import main
from diffadapt.commands.submit import split
from diffadapt.core.errors import RecipeError
from diffadapt.core.runs import Root
from diffadapt.orchestrate.interpreter import FUNCTION, HOOK, put_first
from diffadapt.orchestrate.jobs import job_server
from tests.cli.jobfake import FakeServer, serving

Said = tuple[int, str, str]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(FakeServer()) as started:
        yield started


@pytest.fixture
def say(server: FakeServer, tmp_path: Path, monkeypatch, capsys) -> Callable[..., Said]:
    """``say("quickstart")`` -> (status, stdout, stderr) of a submission that does not wait, from an empty
    folder."""
    for name in (
        "DIFFADAPT_ROOT",
        "DIFFADAPT_PIPELINES",
        "DIFFADAPT_TUNE_SPACES",
        "DIFFADAPT_METHODS",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFADAPT_ADDRESS", server.address)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def call(*words: str, root: str = "/shared/results") -> Said:
        capsys.readouterr()
        try:
            status = main(["submit", *words, "--no-wait", *(["--root", root] if root else [])])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def refused(said: Said, server: FakeServer) -> str:
    """The one sentence that a refusal is; nothing was sent."""
    status, out, err = said
    assert status == 2 and not out and not server.jobs and not server.packages
    (sentence,) = [line for line in err.splitlines() if line and not line.startswith(("cluster ", "root "))]
    return sentence


def test_a_run_is_sent_with_its_words_its_code_and_nothing_else(say, server, monkeypatch):
    monkeypatch.setenv("PASSED", "v4lue")
    monkeypatch.setenv("NOT_PASSED", "x")
    status, out, err = say(
        "quickstart",
        "--synth.guidance",
        "1.5",
        "--env",
        "PASSED",
        "--env",
        "GIVEN=a=b",
        "--submission-id",
        "mine",
    )
    assert (status, out) == (0, "mine\n"), err
    (job,) = server.jobs
    assert (
        job["entrypoint"]
        == "exec python3 -m diffadapt.cli run quickstart --synth.guidance 1.5 --root /shared/results"
    )
    env = job["runtime_env"]["env_vars"]
    assert (
        env["PASSED"] == "v4lue"
        and env["GIVEN"] == "a=b"
        and env[HOOK] == FUNCTION
        and "NOT_PASSED" not in env
    )
    assert (env["DIFFADAPT_PIPELINES"], env["DIFFADAPT_TUNE_SPACES"]) == ("pipelines", "tune_spaces")
    assert (
        "v4lue" not in err + json.dumps(job["metadata"])
        and job["metadata"]["diffadapt_root"] == "/shared/results"
    )
    files = server.files()
    assert {
        "diffadapt/cli.py",
        "diffadapt/orchestrate/interpreter.py",
        "pipelines/quickstart.py",
        "tune_spaces/digits.py",
    } <= files
    assert not [f for f in files if "__pycache__" in f or f.startswith((".", "tests", "diffadapt-data"))]


def test_the_same_line_while_it_runs_is_not_sent_again(say, server):
    assert say("quickstart")[0] == 0
    (job,) = server.jobs
    assert job["submission_id"].startswith("quickstart-")
    status, out, err = say("run", "quickstart")
    assert (
        (status, out.strip()) == (0, job["submission_id"])
        and "runs this line already" in err
        and len(server.jobs) == 1
    )
    assert say("quickstart", root="/shared/other")[0] == 0 and len(server.jobs) == 2


@pytest.mark.parametrize(
    "words, sent",
    [
        (["sweep", "digits"], "sweep digits"),
        (["tune_spaces/digits", "--search.seed", "3"], "sweep tune_spaces/digits --search.seed 3"),
        (["digits", "--recipe", "adapt_anything/digits"], "sweep digits --recipe adapt_anything/digits"),
        (
            ["--recipe", "adapt_anything/digits", "--axis", "generator.guidance=1,2"],
            "sweep --recipe adapt_anything/digits --axis generator.guidance=1,2",
        ),
        (["run", "adapt_anything/digits"], "run adapt_anything/digits"),
    ],
)
def test_run_and_sweep_are_told_apart(say, server, words, sent):
    status, _, err = say(*words)
    assert status == 0, err
    assert server.jobs[0]["entrypoint"] == f"exec python3 -m diffadapt.cli {sent} --root /shared/results"


def test_folders_and_files_of_ones_own_travel(say, server, tmp_path, monkeypatch):
    for folder, file, text in (
        (
            "my recipes",
            "mine.py",
            "from diffadapt.core.recipes import load\n\ndef recipe():\n"
            "    '''Mine.'''\n    return load('quickstart')\n",
        ),
        ("my recipes", ".rayignore", "*.bin\n"),
        ("my recipes", "big.bin", "0" * 1000),
        ("my recipes/__pycache__", "mine.pyc", ""),
        ("methods/uda", "mine.py", ""),
        (
            ".",
            "space.py",
            "from diffadapt.sweeps.space import Choice, Space\n\ndef space():\n"
            "    '''S.'''\n    return Space({'seed': Choice(0, 1)}, recipe='quickstart')\n",
        ),
        (".", "recommended.json", json.dumps({"recipe": "quickstart", "overrides": {"seed": 5}})),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / file).write_text(text)
    (tmp_path / "methods" / "uda" / "mine.py").unlink()
    (tmp_path / "methods" / "uda" / "notes.txt").write_text("a method's data")
    monkeypatch.setenv("DIFFADAPT_PIPELINES", "my recipes")
    monkeypatch.setenv("DIFFADAPT_METHODS", str(tmp_path / "methods"))
    assert say("mine")[0] == 0
    env = server.jobs[-1]["runtime_env"]["env_vars"]
    assert env["DIFFADAPT_PIPELINES"] == "pipelines-0:pipelines" and env["DIFFADAPT_METHODS"] == "methods"
    files = server.files()
    assert {"pipelines-0/mine.py", "pipelines/quickstart.py", "methods/uda/notes.txt"} <= files and not [
        f for f in files if f.endswith((".bin", ".pyc"))
    ]
    assert say("space.py")[0] == 0 and say(str(tmp_path / "recommended.json"))[0] == 0
    assert [j["entrypoint"].split()[4:6] for j in server.jobs[1:]] == [
        ["sweep", "space.py"],
        ["run", "recommended.json"],
    ]
    assert {"space.py", "recommended.json"} <= server.files()


def test_what_is_too_large_is_named_before_anything_is_sent(tmp_path, monkeypatch):
    from diffadapt.core.errors import ResourceError
    from diffadapt.orchestrate.bundle import bundle

    (tmp_path / "weights.bin").write_bytes(b"0" * 30_000_000)
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(tmp_path))
    with (
        pytest.raises(
            ResourceError, match=r"beside the package is 2\d\.\d MiB.*weights\.bin \(28\.6 MiB\).*\.rayignore"
        ),
        bundle({}, limit=20 * 2**20),
    ):
        pass
    (tmp_path / ".rayignore").write_text("*.bin\n")
    with bundle({}, limit=20 * 2**20) as parcel:
        assert parcel.size < 20 * 2**20


@pytest.mark.parametrize(
    "words, said",
    [
        (["quickstrt"], "Did you mean 'quickstart'?"),
        (["run", "digits"], "There is no recipe 'digits'."),
        (["quickstart", "--synth.images-per-class", "-1"], "synth.images_per_class"),
        (["sweep", "digits", "--axis", "generator.guidanc=1,2"], "Did you mean 'generator.guidance'?"),
        (["sweep", "digits", "--search.objective", "ims"], "There is no objective 'ims'."),
        (
            ["quickstart", "--target.data.path", "s3://user:secretkey@bucket/x"],
            "holds a password, key or token",
        ),
        (["quickstart", "--env", "NO_SUCH_VARIABLE"], "there is no such variable here"),
        (["quickstart", "--env", "RAY_AUTH_TOKEN=abc"], "the cluster's token is no part of a job"),
        (["quickstart", "--submission-id", "a b"], "is no name for a job"),
        (["quickstart", "--address"], "--address needs a value"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_before_anything_is_sent(say, server, words, said):
    sentence = refused(say(*words), server)
    assert said in sentence and "secretkey" not in sentence


def test_a_root_that_nodes_cannot_share_is_refused(say, server, monkeypatch):
    assert "give --root" in refused(say("quickstart", root=""), server)
    assert "--root results is relative" in refused(say("quickstart", root="results"), server)
    assert "password" in refused(say("quickstart", root="s3://user:secretkey@bucket/x"), server)
    monkeypatch.setenv("DIFFADAPT_ROOT", "s3://bucket/results")
    assert say("quickstart", root="")[0] == 0 and server.jobs[0]["entrypoint"].endswith(
        "--root s3://bucket/results"
    )


def test_paths_are_made_absolute_here_and_refused_for_another_machine(say, server, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(b"")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    words = ["adapt_anything", "--classes", "classes.txt", "--target=photos"]
    server.hostname = "far-away"
    assert "--classes classes.txt is a path relative to this folder" in refused(say(*words), server)
    status, _, err = say("adapt_anything", "--classes", "/nfs/classes.txt", "--target", "s3://bucket/photos")
    assert (
        status == 0 and "all nodes of the cluster must see the same files" in err and "must share it" in err
    )  # not here, and may be there
    server.jobs.clear()
    server.packages.clear()
    server.hostname = FakeServer().hostname
    assert "/nfs/classes.txt" in refused(
        say("adapt_anything", "--classes", "/nfs/classes.txt", "--target", "photos"), server
    )
    status, _, err = say(*words)
    assert (
        status == 0
        and f"--classes {tmp_path}/classes.txt --target={tmp_path}/photos" in server.jobs[0]["entrypoint"]
    ), err


def test_a_server_that_is_none_or_runs_other_versions_is_one_sentence(say, server, monkeypatch):
    server.ray = "2.41.0"
    said = refused(say("quickstart"), server)
    assert re.search(
        r"The cluster runs Ray 2\.41\.0, this is Ray 2\.\d.*needs .*2\.\d.*start the cluster", said
    )
    monkeypatch.setattr("diffadapt.orchestrate.jobs.rays", lambda: SpecifierSet(">=2.56,<2.61"))
    server.ray, server.python = "2.57.1", "3.9.1"  # another Ray than this process's, and one that was tried
    assert "The cluster runs Python 3.9.1" in refused(say("quickstart"), server)
    server.garbled = True
    assert "is no Ray job server" in refused(say("quickstart"), server)
    assert "No job server answers at http://127.0.0.1:9" in refused(
        say("quickstart", "--address", "http://127.0.0.1:9"), server
    )


def test_the_job_servers_address(monkeypatch):
    monkeypatch.delenv("DIFFADAPT_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [
        job_server(a)
        for a in ("", "http://head:8265/", "https://x", "head", "head:80", "ray://head:10001", "auto")
    ] == [
        "http://127.0.0.1:8265",
        "http://head:8265",
        "https://x",
        "http://head:8265",
        "http://head:80",
        "http://head:8265",
        "http://127.0.0.1:8265",
    ]
    monkeypatch.setenv(
        "RAY_ADDRESS", "10.0.0.7:6379"
    )  # the GCS of a cluster: its job server is elsewhere on the host
    assert job_server("") == "http://10.0.0.7:8265" and job_server("http://other:1") == "http://other:1"
    monkeypatch.setenv("DIFFADAPT_ADDRESS", "https://jobs")
    assert job_server("") == "https://jobs"


def test_options_of_submit_may_stand_anywhere():
    options, words = split(
        ["--address=http://a", "quickstart", "--no_wait", "--root", "/r", "--env", "A=1", "--env=B=2"]
    )
    assert (options.address, options.wait, options.env, words) == (
        "http://a",
        False,
        {"A": "1", "B": "2"},
        ["quickstart", "--root", "/r"],
    )
    with pytest.raises(RecipeError):
        split(["quickstart", "--env", "--no-wait"])


def test_the_interpreters_folder_comes_first_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    put_first()
    put_first()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_status_lists_sweeps_beside_runs_and_a_sweeps_trials(tmp_path, monkeypatch, capsys):
    from diffadapt.core.runs import Run
    from diffadapt.sweeps.folder import Sweep
    from diffadapt.sweeps.result import TrialResult

    for name in ("DIFFADAPT_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    root = Root(str(tmp_path))
    for place in (root.store, root.runs, root.sweeps):
        place.prepare()
    Run(root, "toy-1234").write_status("finished", {"n": {"shards": 2, "done": 2, "hits": 0}})
    sweep = Sweep(root, "space-toy-5678")
    sweep.write_status("running", {"trials": {"shards": 3, "done": 1, "hits": 0}})
    sweep.record(TrialResult("t000-aa", 0, "toy", {"numbers.offset": 0.5}, {}, "finished", "im", 1.25, 77.0))
    sweep.trial("t001-bb").write_status("running", {"n": {"shards": 4, "done": 1, "hits": 2}})

    def shown(*words: str) -> str:
        assert main(["status", *words, "--root", str(tmp_path)]) == 0
        return capsys.readouterr().out

    everything = shown().splitlines()
    assert len(everything) == 2 and "2/2 shards" in everything[0]
    assert (
        everything[1].startswith("space-toy-5678")
        and "running" in everything[1]
        and "1/3 trials" in everything[1]
    )
    trials = shown("space-toy")
    assert "t000-aa" in trials and "offset 0.5  im 1.2500  accuracy 77.0" in trials and "3/4 shards" in trials
    assert "toy-1234" in shown("last")
    assert main(["status", "nothing", "--root", str(tmp_path)]) == 2
    assert "There is no run, sweep or job 'nothing'" in capsys.readouterr().err


def test_a_driver_of_a_job_notes_the_jobs_name(tmp_path, monkeypatch):
    from diffadapt.core.runs import Run

    monkeypatch.setenv(
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        json.dumps({"runtime_env": {"env_vars": {"X": "secret"}}, "metadata": {"job_submission_id": "mine"}}),
    )
    run = Run(Root(str(tmp_path)), "toy-1")
    run.write_status("running", {})
    assert run.status()["job"] == "mine" and b"secret" not in run.read("status.json")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "[]")
    run.write_status("running", {})
    assert "job" not in run.status()
