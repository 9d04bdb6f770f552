"""What a command line has wrong is one sentence with the option, what it takes and the nearest; and numbers
are shown as a person writes them."""

from __future__ import annotations

from typing import Literal

import pytest

from diffadapt.commands.options import RootOption, options_of, parse
from diffadapt.commands.report import CompareOptions
from diffadapt.commands.wrong import FLAG, sentence, takes, words_of
from diffadapt.core.errors import RecipeError
from diffadapt.core.units import brief_seconds, number

KNOWN = {
    "--a.size": tuple[int, int],
    "--b.size": float,
    "--name": str,
    "--level": Literal["auto"] | float,
    "--kinds": tuple[str, ...],
    "--dry": FLAG,
    "--few": int | None,
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--a.size", "1"], "--a.size is '1' but takes 2 values, each a whole number."),
        (["--a.size", "1", "x"], "--a.size is '1 x' but takes 2 values, each a whole number."),
        (["--b.size=x"], "--b.size is 'x' but takes a number."),
        (["--size", "3"], "There is no option --size. Did you mean --a.size or --b.size? `show` lists all."),
        (["--b_siz", "3"], "There is no option --b_siz. Did you mean --b.size? `show` lists all."),
        (["--level", "aut"], "--level is 'aut' but takes one of auto or a number. Did you mean 'auto'?"),
        (["--name"], "--name needs a value: text."),
        (["--dry", "run"], "--dry takes no value and was given 'run'."),
        (["--few", "-1", "--few", "x"], "--few is 'x' but takes a whole number or None."),
        (["--kinds", "--few", "1.5"], "--few is '1.5' but takes a whole number or None."),
        (["--level", "2", "--name", "x"], "The box says so."),
    ],
)
def test_the_first_thing_that_is_wrong(words, said):
    assert (
        sentence(
            words, KNOWN, "show", "+- Error ---+\n\u2502 The box says so \u2502\n\u2570\u2500\u2500\u256f"
        )
        == said
    )


def test_types_in_words():
    assert takes(bool) == "true or false" and words_of(bool) == ["true", "false"]
    assert words_of(KNOWN["--level"]) == ["auto"] and words_of(float) == []


def test_commands_without_a_recipe_say_it_too():
    with pytest.raises(
        RecipeError, match=r"no option --roo\. Did you mean --root\? `diffadapt report --help`"
    ):
        parse(RootOption, ["--roo", "x"], "report")
    assert options_of(CompareOptions) == {"--root": str}, "what stands without a name is no option"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.8973665961010275, "1.897"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (1e-5, "0.00001"),
        (-1 / 3, "-0.3333"),
        (99999.96, "100000"),
        (4e-13, "4e-13"),
        (0.0, "0.0"),
        (True, "True"),
        (3, "3"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.004, "0.00 s"), (0.31, "0.3 s"), (9.94, "9.9 s"), (75, "1 min 15 s")]
)
def test_short_times(value, text):
    assert brief_seconds(value) == text


def test_show_rounds_what_it_prints_and_digests_do_not(capsys):
    from diffadapt.commands.recipes import show
    from diffadapt.core.recipes import load

    name = "sda/ablations/components_resnet50"
    assert load(name).align.scale == 1.8973665961010275
    assert show([name]) == 0
    printed = capsys.readouterr().out
    (line,) = (x for x in printed.splitlines() if x.startswith("--align.scale "))
    assert line.split()[1] == "1.897" and "- align.scale 1.897, theirs 6.0" in printed
