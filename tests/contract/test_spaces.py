"""Every search space under tune_spaces/: loads, fits the recipe that it means, and is in the folder's
README."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffadapt.core.errors import RecipeError
from diffadapt.core.recipes import load
from diffadapt.core.store import Store
from diffadapt.sweeps.space import Space, check
from diffadapt.sweeps.spaces import load_space, spaces
from diffadapt.sweeps.trials import build, enumerate_trials
from diffadapt.sweeps.union import economy

NAMES = sorted(spaces())
README = (Path(__file__).resolve().parents[2] / "tune_spaces" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_space(name):
    entry = spaces()[name]
    short, space = load_space(f"tune_spaces/{name}")
    assert short == name and space == load_space(name)[1]
    assert 20 < len(entry.summary) < 160
    check(space, {space.recipe: load(space.recipe)})
    assert name.rpartition("/")[2] in README


def test_the_six_confidence_thresholds_generate_nothing_anew():
    """Costs: six thresholds, three seeds, one set of images; 25 to 1000 images a class cost 1000."""
    recipe = load("adapt_anything/digits")
    rows = economy(_plans("adapt_anything/confidence_threshold", recipe), set())
    synth = next(e for e in rows if e.kind == "synth")
    assert synth.apart == 18 * synth.together and synth.together_items == 500
    synth = next(e for e in economy(_plans("adapt_anything/image_count", recipe), set()) if e.kind == "synth")
    assert synth.together_items == 10 * 1000 and synth.apart_items == 3 * 10 * (
        25 + 50 + 100 + 200 + 400 + 1000
    )


def _plans(name, recipe):
    _, space = load_space(name)
    return [
        build(recipe, t).pipeline().plan(Store("memory://spaces"))
        for t in enumerate_trials(space, ["adapt_anything/digits"])
    ]


def test_spaces_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        'from diffadapt.sweeps.space import Choice, Space\n\ndef space():\n    """My own space."""\n   '
        ' return Space({"seed": Choice(1, 2)})\n'
    )
    (tmp_path / "other.py").write_text("def space():\n    return 3\n")
    assert load_space(str(tmp_path / "mine.py")) == ("mine", load_space(str(tmp_path / "mine.py"))[1])
    monkeypatch.setenv("DIFFADAPT_TUNE_SPACES", str(tmp_path))
    assert isinstance(load_space("mine")[1], Space)
    for name, said in (
        ("mien", "Did you mean 'mine'"),
        ("other", "must return a Space"),
        ("absent.py", "There is no file"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_space(name)
