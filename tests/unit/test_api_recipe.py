"""``import diffadapt as da``: its names, what importing it costs, recipes and plans as values."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffadapt as da

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "numpy", "pandas", "pyarrow", "datasets", "IPython")


def imported_after(lines: str) -> list[str]:
    """The heavy packages that a fresh interpreter has after ``lines``."""
    code = f"import sys\n{lines}\nprint(*(m for m in {HEAVY} if m in sys.modules))"
    paths = f"import sys; sys.path[:0] = {[str(ROOT / 'platform'), str(ROOT)]}\n"
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_takes_nothing_heavy_along():
    assert imported_after("import diffadapt as da") == []
    looked = "import diffadapt as da; r = da.recipe('quickstart', **{'align.scale': 1.0}); r._repr_html_()"
    assert not {"torch", "ray"} & set(imported_after(looked + "; dir(da); da.runs('/nowhere/at/all')"))


def test_the_stub_has_every_name():
    stub = (ROOT / "platform" / "diffadapt" / "__init__.pyi").read_text()
    typed = set(re.findall(r" as (\w+)$", stub, re.M)) | {"__version__"}
    assert typed == set(da.__all__) <= set(dir(da))
    for name in da.__all__:
        assert getattr(da, name).__doc__, name


def test_run_is_a_function_and_a_room():
    from diffadapt.run.choice import choose  # the room, under the name of the function

    assert callable(da.run) and choose.__module__ == "diffadapt.run.choice"
    assert "Make what is missing" in (da.run.__doc__ or "")


def test_a_recipe_is_a_value():
    recipe = da.recipe("quickstart", **{"align.scale": 1.0})
    assert recipe.overrides == {"align.scale": 1.0} and recipe.align.scale == 1.0
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    assert da.recipe(recipe, **{"align.scale": 2.0}) == da.recipe("quickstart")
    assert da.recipe("quickstart", align=recipe.align) == recipe
    assert str(recipe) == "quickstart with align.scale=1.0"
    page = recipe._repr_html_()
    assert "<td>align.scale</td><td>1.0</td><td>changed</td>" in page
    assert da.recipe("quickstart", data="photos").target.data.path == "photos"


@pytest.mark.parametrize(
    ("wanted", "overrides", "said"),
    [
        ("quickstrt", {}, "Did you mean 'quickstart'"),
        ("quickstart", {"align.scal": 1}, "Did you mean 'align.scale'"),
        ("quickstart", {"align.scale": "x"}, "align.scale is 'x'"),
        ("quickstart", {"align": 3}, "align"),
        ("", {}, "There is no recipe ''"),
        (None, {}, "NoneType is no recipe"),
        (5, {}, "int is no recipe"),
    ],
)
def test_a_wrong_recipe_is_refused_in_a_sentence(wanted, overrides, said):
    with pytest.raises(da.DiffadaptError, match=re.escape(said)):
        da.recipe(wanted, **overrides)


def test_secrets_of_a_recipe_are_not_shown():
    recipe = da.recipe(
        "adapt_anything/digits", **{"prompts.llm.endpoint": "http://user:hunter2@host:8000/v1"}
    )
    assert "hunter2" not in str(recipe) + recipe._repr_html_() + str(recipe.fields())


def test_a_plan_is_what_the_command_prints(library, capsys, tmp_path):
    from diffadapt.cli import main

    root, run = library
    for place in (root, tmp_path / "new"):
        plan = da.plan("small", root=place)
        capsys.readouterr()
        assert main(["plan", "small", "--root", str(place)]) == 0
        assert capsys.readouterr().out.startswith(str(plan).rstrip() + "\n")
    assert not (tmp_path / "new").exists()
    assert plan.missing == int(plan.table()["to_make"].sum()) > 0
    assert da.plan("small", root=root).missing == 0
    assert "shards to make" in plan._repr_html_() and "NaN" not in plan._repr_html_()
    assert plan.nodes.keys() == run.manifest["nodes"].keys()


def test_roots_that_are_none(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(da.DiffadaptError, match="is not a folder: give another --root"):
        da.runs(file)
    with pytest.raises(da.DiffadaptError, match="give a folder or a URL"):
        da.plan("quickstart", root=3)  # type: ignore[arg-type]
    none = da.runs(tmp_path / "nowhere")
    assert len(none) == 0 and none.table().empty and none._repr_html_()
    with pytest.raises(da.DiffadaptError, match="There is no run 'last'"):
        none["last"]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("given", [{"runner": "foo"}, {"on": "foo"}])
def test_a_plan_names_what_is_wrong(given, tmp_path):
    with pytest.raises(da.DiffadaptError, match="foo"):
        da.plan("quickstart", root=tmp_path, **given)
