"""Digests, names in the store, options and commands are those of tests/golden/digests.json."""

from __future__ import annotations

import pytest

from tests.golden import digests

SHOWN = 40
HINT = (
    "\nMoved or renamed code must change none of this: a store that was made before would not be served. "
    "Mend the code; or, if a stage raised its version or a field, a recipe or a command was added on "
    "purpose, run `python -m tests.golden.digests --write` and look at the difference."
)


@pytest.fixture(scope="module")
def found():
    return digests.compute()


@pytest.fixture(scope="module")
def golden():
    return digests.read()


@pytest.mark.parametrize("part", ["planned", "refused", "options", "sweeps", "commands", "listings"])
def test_nothing_has_changed(part, golden, found):
    said = digests.differences(golden, found).get(part, [])
    more = [f"... and {len(said) - SHOWN} more"] if len(said) > SHOWN else []
    assert not said, "\n" + "\n".join([*said[:SHOWN], *more]) + HINT


def test_every_recipe_is_planned_at_least_once(golden, found):
    for values in (golden, found):
        planned = {case["recipe"] for case in values["planned"].values()}
        assert (
            planned == {name for types in values["options"].values() for name in types["recipes"]}
            and len(planned) >= 153
        )
    refused = set(golden["refused"]) - {"own target: flat folder refused"}
    assert refused <= planned, "a variant plans nothing"


def test_a_difference_is_named():
    golden = digests.read()
    found = digests.read()
    name = "quickstart"
    node = next(n for n in golden["planned"][name]["nodes"] if n == "synth")
    record = list(found["made"][found["planned"][name]["nodes"][node]])
    record[1] += 1
    found["made"]["new"] = record
    found["planned"][name]["nodes"][node] = "new"
    del found["options"]["quickstart"]["fields"]["synth.guidance"]
    found["commands"]["run"].remove("--root")
    said = digests.differences(golden, found)
    assert said["planned"] == ["quickstart, node synth: version was 1, is 2"]
    assert said["options"][0].startswith("options: quickstart: fields: synth.guidance is gone")
    assert said["commands"] == ["commands: run: gone ['--root'], new []"]
