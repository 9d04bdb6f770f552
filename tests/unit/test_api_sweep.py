"""Searches as values: spaces of several kinds, their trials, what they recommend, what is refused."""

from __future__ import annotations

import re

import pytest

import diffadapt as da
from diffadapt.sweeps.space import Choice, Space


def test_a_search(library, capsys):
    """Two trials share what they have in common with the run before; the same call finds them finished."""
    root, run = library
    space = {"align.scale": [run.recipe.align.scale, 4.0]}
    sweep = da.sweep(space, "small", root=root, runner="local", progress=False)
    assert capsys.readouterr().err == ""
    trials = sweep.trials
    assert sorted(trials["value.align.scale"]) == sorted(space["align.scale"])
    assert set(trials["status"]) <= {"finished", "served"} and trials["objective"].notna().all()
    best = sweep.best
    assert best.name == "small" and best.align.scale in space["align.scale"]
    assert "align.scale" in sweep._repr_html_() and sweep.name in str(sweep)
    again = da.sweep(
        Space({"align.scale": Choice(*space["align.scale"])}), "small", root=root, runner="local"
    )
    assert again.trials["objective"].tolist() == trials["objective"].tolist()
    assert da.plan(best, root=root).missing < da.plan(da.recipe(best, seed=9), root=root).missing


@pytest.mark.parametrize(
    ("space", "given", "said"),
    [
        (None, {}, "NoneType is no search space"),
        ({}, {}, "is no search space"),
        ("nowhere", {}, "There is no search space 'nowhere'"),
        ({"align.scal": [1, 2]}, {}, "Did you mean 'align.scale'"),
        ({"align.scale": 3}, {}, "must be a list"),
        ({"align.scale": []}, {}, "must be a list"),
        ({"align.scale": ["x"]}, {}, "not a valid float"),
        ({"align.scale": [1.0]}, {"recipe": None}, "names no recipe"),
        ({"align.scale": [1.0]}, {"search": {"trails": 3}}, "Did you mean 'trials'"),
        ({"align.scale": [1.0]}, {"runner": "foo"}, "must be one of"),
    ],
)
def test_what_is_no_search(space, given, said, tmp_path):
    with pytest.raises(da.DiffadaptError, match=re.escape(said)):
        da.sweep(space, **{"recipe": "quickstart", "root": tmp_path, **given})
    assert list(tmp_path.iterdir()) == []
