"""What a shell completes, and that bash and zsh take the script."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from diffadapt.cli import main
from diffadapt.commands.completion import SCRIPTS, candidates


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ru"], ["run"]),
        (["run", "quickst"], ["quickstart"]),
        (["run", "quickstart", "--align.sc"], ["--align.scale"]),
        (["run", "quickstart", "--help"], ["--help", "--help-all"]),
        (["run", "quickstart", "--mode"], ["--model"]),
        (["plan", "quickstart", "--calib"], ["--calibrate"]),
        (["run", "quickstart", "--execution.runner", ""], ["auto", "local", "ray"]),
        (["run", "quickstart", "--figures", "t"], ["true"]),
        (["run", "quickstart", "--classifier.name", ""], []),
        (["sweep", "tune_spaces/dig"], []),
        (["cache", "v"], ["verify"]),
        (["report", "--ro"], ["--root"]),
    ],
)
def test_candidates(words, found):
    assert candidates(words) == found


def test_runs_are_those_of_the_root_that_is_named(tmp_path):
    from tests.auditkit import drawn_run

    run, _ = drawn_run(tmp_path, images=20)
    assert candidates(["report", "--root", str(tmp_path), run.name[:4]]) == [run.name]
    assert candidates(["predict", "--root", str(tmp_path), "--run", "la"]) == ["last"]


def test_whatever_is_typed_is_no_error(capsys):
    for words in (
        ["nonsense", "--x"],
        ["run", "no-such-recipe", "--a"],
        ["run", ""],
        ["sweep", "x", "-"],
        [],
    ):
        assert main(["__complete", *words]) == 0 and not capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_asks_with_the_words_that_were_typed(shell, capsys, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.strip() == SCRIPTS[shell]
    fake = tmp_path / "diffadapt"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    ask = {
        "bash": "COMP_WORDS=(diffadapt run quickstart --al); COMP_CWORD=3; _diffadapt; echo ${COMPREPLY[@]}",
        "zsh": "words=(diffadapt run quickstart --al); CURRENT=4; _diffadapt",
    }[shell]
    around = "compdef() { :; }; compadd() { shift; echo $@; }; " if shell == "zsh" else ""
    (tmp_path / "script").write_text(f"{around}\n{script}\n{ask}\n")
    options = ["-f"] if shell == "zsh" else ["--norc"]
    done = subprocess.run(
        [shell, *options, tmp_path / "script"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.split() == ["__complete", "run", "quickstart", "--al"], done.stderr


def test_the_program_answers_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "diffadapt.cli", "__complete", "repo"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "report\n"
