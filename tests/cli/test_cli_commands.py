"""The command line: help with examples, near names, runs and resumption, plan equals run, the store's
upkeep."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from diffadapt.cli import COMMANDS
from diffadapt.core.runs import Root, Run

RECIPE_COMMANDS = ("show", "plan", "run")


def squeezed(text: str) -> str:
    """Without the frames and line breaks that boxes on a terminal add."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


def plan_counts(text: str) -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in text.splitlines()]
    return {r[0]: tuple(map(int, r[1:5])) for r in rows if len(r) >= 5 and all(x.isdigit() for x in r[1:5])}


def test_overview_shows_every_command_with_an_example(cli):
    status, out, _ = cli("--help")
    assert status == 0 and cli() == (0, out, "")
    for name, (_, summary, example) in COMMANDS.items():
        assert summary in out and example in out and example.startswith(f"diffadapt {name}")
    assert cli("--version")[1].startswith("diffadapt ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_shows_an_example(cli, command):
    status, out, _ = cli(command, "--help")
    assert (
        status == 0
        and COMMANDS[command][2].split()[1] in squeezed(out)
        and "Example: diffadapt" in squeezed(out)
    )


@pytest.mark.parametrize("command", RECIPE_COMMANDS)
def test_help_of_a_recipe_is_short_and_that_of_all_lists_its_fields(cli, command):
    status, out, _ = cli(command, "small", "--help")
    assert status == 0 and "--align.*" in out and "--data" in out and "--help-all" in out
    assert len(out.splitlines()) < 60 and "--align.batch-size" not in out
    status, out, _ = cli(command, "small", "--help-all")
    assert status == 0 and "--synth.guidance" in out and "--align.batch-size" in out and "--data" in out


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["rnu"], "'run'"),
        (["statsu"], "'status'"),
        (["show", "quickstrat"], "'quickstart'"),
        (["run", "sda/imagenet_c/resnet5"], "'sda/imagenet_c/resnet50'"),
        (["show", "small", "--synth.guidence", "2"], "--synth.guidance"),
        (["status", "--rot", "x"], "--root"),
        (["ls", "sdaa"], "'sda"),
        (["status", "smal-00000000"], "'small'"),
        (["cache", "why", "synth/digits", "sinth/digits-dit"], "'synth/digits-dit"),
    ],
)
def test_mistyped_words_get_the_nearest(cli, arguments, near):
    status, out, err = cli(*arguments)
    assert status == 2 and near in squeezed(out + err)


def test_a_folder_of_recipes_and_a_forgotten_recipe(cli):
    status, _, err = cli("run", "sda/imagenet_c")
    assert status == 2 and "holds several recipes" in err
    status, _, err = cli("run", "--seed", "1")
    assert status == 2 and "The recipe comes first" in err


def test_ls_and_show(cli):
    status, out, _ = cli("ls")
    assert status == 0 and "small" in out and "quickstart" in out and "sda/imagenet_c/resnet50" in out
    assert all(line.startswith("sda/imagenet_w/") for line in cli("ls", "sda/imagenet_w")[1].splitlines())
    status, out, _ = cli("show", "small", "--synth.guidance", "1.5")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("--")}
    assert (
        "1.5" in lines["--synth.guidance"]
        and "execution only" in lines["--align.batch-size"]
        and "execution only" not in lines["--align.scale"]
    )


def test_guidance_forks_the_run_and_batch_size_does_not(cli):
    base = plan_counts(cli("plan", "small")[1])
    assert base and all(c[1] == 0 for c in base.values())
    assert plan_counts(cli("plan", "small", "--align.batch-size", "7")[1]) == base
    forked = plan_counts(cli("plan", "small", "--synth.guidance", "1.5")[1])
    assert forked["synth"][:2] == (2, 2) and forked["aligned"][1] == 2 and forked["finetuned"][1] == 1
    assert forked["projected"][1] == forked["classifier"][1] == forked["target"][1] == 0


def test_short_options_set_their_fields(cli):
    _, out, _ = cli("show", "quickstart", "--data", "photos", "--model=resnet18.a1_in1k", "--seed", "3")
    for line in (
        "--source.path photos",
        "--target.data.path photos",
        "--classifier.name resnet18.a1_in1k",
        "--seed 3",
    ):
        assert line in re.sub(r" +", " ", out)
    assert cli("show", "quickstart", "--data")[0] == 2


def test_the_second_run_makes_nothing_and_prints_the_same_table(cli, shell):
    before = {p: p.stat().st_mtime_ns for p in (shell.small / "store").rglob("*") if p.is_file()}
    status, out, _ = cli("run", "small")
    assert status == 0 and "everything is in the store" in out

    def table(text: str) -> list[str]:
        lines = text.splitlines()
        first = next(i for i, x in enumerate(lines) if x.startswith(" Source"))
        return [x for x in lines[first:] if x.startswith(" ")]

    assert table(out) == table(shell.table) and any("SDA" in line for line in table(out))
    assert {p: p.stat().st_mtime_ns for p in (shell.small / "store").rglob("*") if p.is_file()} == before


def test_what_a_plan_counts_a_run_makes(cli, shell):
    printed = plan_counts(shell.table)  # `run` prints its plan first
    made = json.loads(Run(Root(str(shell.small)), shell.name).read("execution.json"))["made"]
    assert {n: c[1] for n, c in printed.items() if c[1]} == made
    manifest = Run(Root(str(shell.small)), shell.name).manifest()["nodes"]
    assert {n: (c[0], c[2]) for n, c in printed.items()} == {
        n: (len(v["shards"]), sum(s[2] for s in v["shards"])) for n, v in manifest.items() if n in printed
    }


def test_plan_writes_nothing(cli, tmp_path):
    status, out, _ = cli("plan", "small", "--root", tmp_path / "new")
    assert status == 0 and plan_counts(out)["synth"] == (2, 2, 40, 40) and not (tmp_path / "new").exists()


def test_plan_of_the_paper_needs_neither_weights_nor_data(cli):
    status, out, _ = cli("plan", "sda/imagenet_c/resnet50")
    assert (
        status == 0 and plan_counts(out)["synth"][2] == 50_000 and plan_counts(out)["projected"][2] == 750_000
    )
    assert "Not at hand" in out and "import-adm" in out


def test_status(cli, shell):
    status, out, _ = cli("status")
    assert status == 0 and shell.name in out and "finished" in out
    status, out, _ = cli("status", "last")
    assert status == 0 and re.search(r"aligned +2/2 shards", out)
    assert cli("status", "--root", shell.small / "nothing")[1].startswith("No runs")


def test_status_of_an_interrupted_run(cli, shell, tmp_path):
    run = Run(Root(str(tmp_path)), "small-0badcafe")
    run.write_status(
        "running", {"synth": {"shards": 4, "done": 1, "hits": 0}}, pid=2**22 + 7, host=os.uname().nodename
    )
    _, out, _ = cli("status", "--root", tmp_path)
    assert "interrupted" in out and "1/4 shards" in out


@pytest.fixture
def copy(shell, tmp_path) -> Path:
    return Path(shutil.copytree(shell.small, tmp_path / "copy"))


def families(root: Path, kind: str) -> list[str]:
    return sorted(f"{kind}/{p.name}" for p in (root / "store" / kind).iterdir())


def test_cache_why_names_the_field(cli, copy):
    assert cli("run", "small", "--synth.guidance", "1.5", "--root", copy)[0] == 0
    first, second = families(copy, "synth")
    status, out, _ = cli("cache", "why", first, second, "--root", copy)
    assert (
        status == 0
        and sorted(out.strip().partition(": ")[2].split(" | ")) == ["1.0", "1.5"]
        and out.startswith("identity.config.guidance: ")
    )
    tuned = [f for f in families(copy, "classifier") if "finetuned" in f]
    assert len(tuned) == 2
    out = cli("cache", "why", *tuned, "--root", copy)[1]
    assert (
        out.splitlines()
        == [line for line in out.splitlines() if "synth.identity.config.guidance" in line]
        != []
    )
    runs = Root(str(copy)).names()
    out = cli("cache", "why", *runs, "--root", copy)[1]
    assert "config.synth.guidance" in out
    assert cli("cache", "why", first, first, "--root", copy)[1].strip() == "They are the same."
    status, out, _ = cli("compare", *runs, "--root", copy)
    assert status == 0 and "guidance" in out and "SDA" in out


def test_cache_why_names_the_number_of_images(cli, copy):
    assert cli("run", "small", "--synth.images-per-class", "6", "--root", copy)[0] == 0
    assert len(families(copy, "synth")) == 1
    tuned = [f for f in families(copy, "classifier") if "finetuned" in f]
    out = cli("cache", "why", *tuned, "--root", copy)[1]
    assert {x.partition(": ")[0] for x in out.splitlines()} == {
        "inputs.aligned.images",
        "inputs.synth.images",
    }
    assert sorted(out.splitlines()[0].partition(": ")[2].split(" | ")) == ["40", "60"]


def test_cache_ls_counts_every_byte(cli, shell):
    status, out, _ = cli("cache", "ls")
    kinds = {line.split("/")[0] for line in out.splitlines()[:-1]}
    assert (
        status == 0
        and {"synth", "aligned", "logits", "classifier", "corrupted"} <= kinds
        and out.splitlines()[-1].startswith("in all")
    )


def test_cache_gc_keeps_what_runs_refer_to(cli, copy, shell):
    store = copy / "store"
    wanted = {p.relative_to(store) for p in store.rglob("*") if p.is_file()}
    extra = store / "synth" / "orphan-0000" / "i0.parquet"
    extra.parent.mkdir()
    extra.write_bytes(b"x" * 1000)
    status, out, _ = cli("cache", "gc", "--root", copy)
    assert status == 0 and "freed 0 B" in out and extra.exists(), "young files are work in progress"
    status, out, _ = cli("cache", "gc", "--older-than-hours", "0", "--dry-run", "--root", copy)
    assert status == 0 and "would free 1.0 kB in 1 files" in out and extra.exists()
    status, out, _ = cli("cache", "gc", "--older-than-hours", "0", "--root", copy)
    assert status == 0 and "freed 1.0 kB" in out and not extra.exists()
    assert {p.relative_to(store) for p in store.rglob("*") if p.is_file()} == wanted
    shutil.rmtree(copy / "runs" / shell.name)
    cli("cache", "gc", "--older-than-hours", "0", "--root", copy)
    assert {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()} == {"store.json"}


def test_cache_gc_spares_interrupted_runs_and_refuses_while_one_is_in_progress(cli, copy, shell):
    run = Run(Root(str(copy)), shell.name)
    run.remove("manifest.json")
    run.write_status("running", {}, pid=os.getpid(), host=os.uname().nodename)
    status, _, err = cli("cache", "gc", "--older-than-hours", "0", "--root", copy)
    assert status == 2 and "in progress" in err
    before = sum(1 for p in (copy / "store").rglob("*") if p.is_file())
    run.write(
        "status.json",
        json.dumps(
            {"state": "running", "updated": time.time(), "pid": 2**22 + 7, "host": os.uname().nodename}
        ).encode(),
    )
    assert cli("cache", "gc", "--older-than-hours", "0", "--root", copy)[0] == 0
    assert sum(1 for p in (copy / "store").rglob("*") if p.is_file()) == before


def test_report_and_compare(cli, shell):
    status, out, _ = cli("report")
    assert (
        status == 0
        and "SDA" in out
        and shell.name in out
        and (shell.small / "runs" / shell.name / "report.html").exists()
    )
    assert cli("compare", "last")[0] == 2


def test_doctor(cli, tmp_path):
    status, out, _ = cli("doctor", "--root", tmp_path)
    assert status == 0 and "FAIL" not in out and "embedded weights" in out


@pytest.mark.parametrize(
    ("folder", "file", "said"),
    [
        (0o755, 0o644, "can be read by other users"),
        (0o700, 0o640, "can be read by other users"),
        (0o777, 0o600, "can be replaced by other users"),
        (0o700, 0o600, ""),
    ],
)
def test_doctor_warns_of_a_token_that_others_can_read(cli, tmp_path, monkeypatch, folder, file, said):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("SECRET")
    token.chmod(file)
    token.parent.chmod(folder)
    status, out, _ = cli("doctor", "--root", tmp_path / "root")
    (line,) = [line for line in out.splitlines() if "cluster token" in line]
    assert status == 0 and "SECRET" not in out and line.startswith("warn" if said else "ok") and said in line
    assert ("chmod 600" in line) == bool(said)


QUICK = {
    "ls": ["ls"],
    "status": ["status"],
    "report": ["report", "last"],
    "compare": ["compare", "last", "last"],
    "cache ls": ["cache", "ls"],
    "help": ["--help"],
}


@pytest.mark.parametrize("name", QUICK)
def test_looking_needs_no_torch(shell, name):
    code = (
        f"import sys; from diffadapt.cli import main; s = main({QUICK[name]!r}); print(sorted({{'torch',"
        " 'ray', 'diffusers', 'timm', 'pandas'} & set(sys.modules)), file=sys.stderr); sys.exit(s)"
    )
    done, _ = shell.python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_module_runs_as_a_program(shell):
    done, _ = shell.python("-m", "diffadapt.cli", "status")
    assert done.returncode == 0 and shell.name in done.stdout
    done, _ = shell.python("-m", "diffadapt.cli", "statsu")
    assert done.returncode == 2 and "Did you mean 'status'" in done.stderr and "Traceback" not in done.stderr


def test_switches_take_true_and_false_in_any_case(capsys):
    from diffadapt.cli import main

    for value in ("true", "False"):
        assert main(["show", "adapt_anything/digits", "--figures", value, f"--backbone.frozen={value}"]) == 0
        shown = {
            words[0]: words[1:] for line in capsys.readouterr().out.splitlines() if (words := line.split())
        }
        assert shown["--figures"] == shown["--backbone.frozen"] == [value.capitalize()]
