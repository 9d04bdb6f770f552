"""Spaces, axes, searches and files of a sweep that cannot work: one sentence, status 2, nothing finished
lost, nothing begun."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffadapt.core.ledger import read
from diffadapt.core.runs import Root
from tests.cli.badinput import Result, diffadapt

RECIPES = '''"""Recipes for tests."""

from tests.unit.sweepkit import Guess, Guesses


def recipe():
    """Numbers, their total and guesses, without torch."""
    return Guesses()


def blind():
    """The same on a target without labels."""
    return Guesses(guess=Guess(labels=False))
'''

SPACES = '''"""Spaces for tests."""

from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform


def space():
    """Two spreads."""
    return Space({"guess.spread": Choice(0.5, 2.0)}, recipe="guesses")


def homeless():
    """No recipe."""
    return Space({"guess.spread": Choice(0.5, 2.0)})


def twice():
    return Space({"guess.spread": Choice(0.5, 0.5)}, recipe="guesses")


def nothing():
    return Space({"guess.spread": Choice()}, recipe="guesses")


def backwards():
    return Space({"guess.spread": Uniform(2.0, 0.5)}, SearchConfig("random", 3), recipe="guesses")


def ranged():
    return Space({"guess.spread": Uniform(0.5, 2.0)}, recipe="guesses")


def logarithmic():
    return Space({"guess.spread": Uniform(0.0, 2.0, log=True)}, SearchConfig("random", 3), recipe="guesses")


def mistyped():
    return Space({"guess.spred": Choice(1.0, 2.0)}, recipe="guesses")


def wrong_type():
    return Space({"numbers.rows": Choice(4, "many")}, recipe="guesses")


def execution():
    return Space({"execution.threads": Choice(1, 2)}, recipe="guesses")


def base():
    return Space({"guess.spread": Choice(1.0, 2.0)}, base={"guess.spred": 1.0}, recipe="guesses")


def elsewhere():
    return Space({"guess.spread": Choice(1.0, 2.0)}, recipe="guesess")


def no_space():
    return 3


def raises():
    raise RuntimeError("a bug of theirs")


def failing():
    """One of two trials fails."""
    return Space({"guess.mode": Choice("plain", "fail")}, recipe="guesses")
'''


class Sweeping:
    """A root, recipes and spaces of a test."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "root"

    def __call__(self, *words: object, runner: str = "local") -> Result:
        return diffadapt("sweep", *words[:1], "--execution.runner", runner, "--root", self.root, *words[1:])

    def file(self, name: str) -> Path:
        (found,) = (self.root / "sweeps").glob(f"*/{name}")
        return found

    def everything(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeping:
    for name, variable, text in (
        ("recipes", "DIFFADAPT_PIPELINES", RECIPES),
        ("spaces", "DIFFADAPT_TUNE_SPACES", SPACES),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / {"recipes": "guesses", "spaces": "small"}[name]).with_suffix(".py").write_text(
            text
        )
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Sweeping(tmp_path)


@pytest.mark.parametrize(
    "words, parts",
    [
        ("smal", ("no search space 'smal'", "Did you mean 'small'")),
        ("tune_spaces/smal", ("Did you mean 'small'",)),
        ("nope.py", ("nope.py", "no file")),
        ("small/homeless", ("names no recipe", "--recipe")),
        ("small/elsewhere", ("no recipe 'guesess'", "Did you mean 'guesses'")),
        ("small --recipe gueses", ("Did you mean 'guesses'",)),
        ("small --recipe", ("--recipe needs a value",)),
        ("small --recipe x.json", ("by its name",)),
        ("small --benchmarks guesses,nope", ("no recipe 'nope'",)),
        ("small/mistyped", ("'guess.spred'", "Did you mean 'guess.spread'")),
        ("small/base", ("guess.spred", "Did you mean 'guess.spread'")),
        ("small/wrong_type", ("numbers.rows", "many")),
        ("small/execution", ("execution.threads", "how fast")),
        ("small/twice", ("names a value twice",)),
        ("small/nothing", ("has no value",)),
        ("small/backwards", ("from 2.0 to 0.5", "low must not exceed high")),
        ("small/ranged", ("is a range", "grid")),
        ("small/logarithmic", ("above 0",)),
        ("small/no_space", ("returns a int",)),
        ("small/raises", ("a bug of theirs", "mend that file")),
        ("small --axis", ("--axis needs a value",)),
        ("small --axis guess.spread", ("names no values",)),
        ("small --axis guess.spread=", ("names no values",)),
        ("small --axis guess.spred=1,2", ("'guess.spred'", "Did you mean")),
        ("small --axis numbers.rows=1,x", ("numbers.rows", "x")),
        ("small --axis guess.spread=1,,2", ("guess.spread",)),
        ("small --axis numbers.rows=4,4", ("names a value twice",)),
        ("small --search.searcher random", ("--search.trials",)),
        ("small --search.objective accuracy", ("no objective 'accuracy'", "oracle")),
        ("small --search.objective imm", ("Did you mean 'im'",)),
        ("small --search.cost device_hours", ("--search.searcher optuna",)),
        ("small --search.scheduler asha", ("keeps one of 3",)),
        ("small --search.scheduler pbt", ("--search.searcher random",)),
        ("small --search.retries -1", ("search.retries is -1",)),
        ("small --search.searcher random --search.trials -3", ("--search.trials",)),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(
    sweep: Sweeping, words: str, parts: tuple[str, ...]
) -> None:
    for plan in ((), ("--plan",)):
        first, *rest = words.split()
        sweep(first, *plan, *rest).sentence(*parts)
    assert not sweep.root.exists()


def test_ranges_of_the_recipes_types_hold_on_an_axis(sweep: Sweeping) -> None:
    """The shipped recipe of Adapt Anything says what its fields may be."""
    words = ("--recipe", "adapt_anything/digits", "--plan")
    sweep("small", *words, "--axis", "split.fraction=0.5,1.5").sentence("guess.spread")
    result = diffadapt("sweep", "--axis", "split.fraction=0.5,1.5", *words, "--root", sweep.root)
    result.sentence("split.fraction", "adapt_anything/digits")
    diffadapt("sweep", "--axis", "generator.guidanse=1,2", *words, "--root", sweep.root).sentence(
        "Did you mean 'generator.guidance'"
    )
    assert not sweep.root.exists()


def test_a_mistyped_option_is_named_with_its_nearest(sweep: Sweeping) -> None:
    result = sweep("small", "--search.searchr", "random")
    assert result.status == 2 and "--search.searcher" in result.text and "Traceback" not in result.text
    assert sweep("small", "--search.searcher", "tpe").status == 2 and not sweep.root.exists()


def test_a_sweep_without_words_shows_how(sweep: Sweeping) -> None:
    result = diffadapt("sweep")
    assert result.status == 2 and "usage: diffadapt sweep" in result.output and "small" in result.output


def test_a_space_file_that_cannot_be_read_is_named(sweep: Sweeping) -> None:
    (sweep.folder / "spaces" / "broken.py").write_text("def space(:\n")
    result = sweep("broken")
    assert result.sentence("broken.py", "SyntaxError")
    (sweep.folder / "spaces" / "broken.py").unlink()
    (sweep.folder / "mine.py").write_text("import nothing_of_that_name\n")
    sweep("mine.py").sentence("mine.py", "nothing_of_that_name")
    assert not sweep.root.exists()


def test_the_oracle_needs_labels(sweep: Sweeping) -> None:
    sweep("small", "--recipe", "guesses/blind", "--search.objective", "oracle").sentence(
        "No trial of the sweep finished", "needs target labels"
    )
    (found,) = {r["error"] for r in pq.read_table(sweep.file("sweep.parquet")).to_pylist()}
    assert "needs target labels" in found and "im" in found
    assert sweep("small", "--search.objective", "oracle").status == 0


def test_searches_that_need_ray_say_so_on_the_local_runner(sweep: Sweeping) -> None:
    sweep("small", "--search.searcher", "optuna", "--search.trials", "2").sentence(
        "Ray Tune", "--execution.runner local"
    )


def test_one_trial_that_fails_is_reported_and_the_other_finishes(sweep: Sweeping) -> None:
    result = sweep("small/failing")
    assert result.status == 0 and "told to fail" in result.text and "Traceback" not in result.text
    rows = {r["value.guess.mode"]: r for r in pq.read_table(sweep.file("sweep.parquet")).to_pylist()}
    assert (rows["plain"]["status"], rows["fail"]["status"]) == (
        "finished",
        "failed",
    ) and "told to fail" in rows["fail"]["error"]
    assert json.loads(sweep.file("recommended.json").read_bytes())["overrides"]["guess.mode"] == "plain"
    made = len(read(Root(str(sweep.root)).ledger))
    again = sweep("small/failing")
    assert again.status == 0 and len(read(Root(str(sweep.root)).ledger)) == made, (
        "the failed one is tried again, nothing finished is"
    )


def test_every_trial_failing_is_no_success_in_disguise(sweep: Sweeping) -> None:
    result = diffadapt(
        "sweep",
        "--axis",
        "guess.spread=1,2",
        "--recipe",
        "guesses",
        "--guess.mode",
        "fail",
        "--execution.runner",
        "local",
        "--root",
        sweep.root,
    )
    result.sentence("No trial of the sweep finished", "told to fail", "run the same command again")
    assert not list(sweep.root.glob("sweeps/*/recommended.json"))


def test_damaged_files_of_a_sweep_cost_nothing_finished(sweep: Sweeping) -> None:
    assert sweep("small").status == 0
    table = pq.read_table(sweep.file("sweep.parquet")).to_pylist()
    made = len(read(Root(str(sweep.root)).ledger))
    result_file = sorted(sweep.root.glob("sweeps/*/trials/*/result.json"))[0]
    for damage in (b"", b"{", b"[]", b'{"id": 3}', b'{"id": "t", "unknown": 1}', b"\xff\x00"):
        result_file.write_bytes(damage)
        assert sweep("small").status == 0, damage
    for name in (
        "sweep.json",
        "status.json",
        "planned.json",
        "recommended.json",
        "sweep.parquet",
        "report.html",
    ):
        sweep.file(name).write_bytes(b"{half")
    again = sweep("small")
    assert again.status == 0, again.text
    drop = ("seconds", "made", "found", "device_hours")
    assert [
        {k: v for k, v in r.items() if k not in drop}
        for r in pq.read_table(sweep.file("sweep.parquet")).to_pylist()
    ] == [{k: v for k, v in r.items() if k not in drop} for r in table]
    assert len(read(Root(str(sweep.root)).ledger)) == made, "shards and fits are served from the store"


def test_a_damaged_recommendation_is_refused(sweep: Sweeping) -> None:
    assert sweep("small").status == 0
    file = sweep.file("recommended.json")
    good = json.loads(file.read_bytes())
    assert diffadapt("plan", file, "--root", sweep.root).status == 0
    for text in (
        "{half",
        "[]",
        "3",
        '{"recipe": "guesses"}',
        '{"recipe": 3, "overrides": {}}',
        '{"recipe": "guesses", "overrides": []}',
        '{"recipe": "x.json", "overrides": {}}',
    ):
        file.write_text(text)
        for command in ("plan", "run"):
            diffadapt(command, file, "--root", sweep.root).sentence("recommended.json", "is no recipe")
    file.write_text(json.dumps({**good, "overrides": {"guess.spred": 1.0}}))
    diffadapt("run", file, "--root", sweep.root).sentence("guess.spred", "Did you mean 'guess.spread'")
    file.write_text(json.dumps({**good, "overrides": {"numbers.rows": "many"}}))
    diffadapt("run", file, "--root", sweep.root).sentence("numbers.rows")
    file.write_text(json.dumps({**good, "recipe": "gueses"}))
    diffadapt("run", file, "--root", sweep.root).sentence("Did you mean 'guesses'")
    diffadapt("run", sweep.folder / "nope.json").sentence("nope.json", "cannot be read")
    file.unlink()
    file.mkdir()
    diffadapt("plan", file).sentence("recommended.json", "cannot be read")


def test_a_root_that_cannot_be_written_is_one_sentence(sweep: Sweeping) -> None:
    sweep.root.write_text("a file")
    sweep("small").sentence("is not a folder", "--root")
    assert sweep.root.read_text() == "a file"
    diffadapt("sweep", "small", "--execution.runner", "local", "--root", "/proc/nowhere").sentence(
        "/proc/nowhere", "--root"
    )
    diffadapt("sweep", "small", "--execution.runner", "local", "--root", "nope://x").sentence("nope://x")


def test_a_store_of_another_format_is_refused(sweep: Sweeping) -> None:
    assert sweep("small").status == 0
    before = sweep.everything()
    for place in ("store", "sweeps"):
        file = sweep.root / place / "store.json"
        file.write_text('{"format": 99}')
        sweep("small").sentence("format 99")
        file.write_bytes(before[f"{place}/store.json"])
    assert sweep.everything() == before
