"""Runs as values: scores and tables, images, models, interruptions, what a run that is not finished says."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

import diffadapt as da
from diffadapt.run.progress import Progress


@pytest.fixture
def run(library):
    return library[1]


def test_the_table_says_what_is_printed(run, capsys):
    from diffadapt.cli import main

    assert main(["report", run.name, "--root", run.root]) == 0
    printed = capsys.readouterr().out
    table = run.table()
    assert list(table.index[:2]) == ["Source", "SDA"] and table.attrs["metric"]
    for title, row in table.iterrows():
        (line,) = [s for s in printed.splitlines() if s.split("  ")[0].strip() == title]
        numbers = line.replace(str(title), "").split()
        assert numbers[0] == f"{row['mean']:.1f}" and numbers[1] == f"{row['s.e.']:.1f}"
        if title != "Source":
            assert numbers[2].rstrip("*") == f"{row['-Source']:+.1f}"
    assert f" {table.loc['Source', 'clean']:.1f} " in printed
    assert str(run).splitlines()[0] == f"{run.name}: finished"


def test_a_plain_mean_of_the_scores_is_not_the_table(run):
    """The clean images are a group of the scores, and no corruption."""
    source = run.scores[run.scores["method"] == "Source"]
    corrupted = source[source["corruption"] != "clean"]
    assert len(corrupted) < len(source)
    assert corrupted["value"].mean() == pytest.approx(run.table().loc["Source", "mean"])
    groups = run.table(groups=True)
    assert groups.loc["Source", ["gaussian noise", "contrast"]].mean() == pytest.approx(
        groups.loc["Source", "mean"]
    )
    with pytest.raises(da.DiffadaptError, match="no metric 'acc'"):
        run.table("acc")


def test_pages_of_a_notebook(run, library):
    assert "<table" in run._repr_html_() and run.name in run._repr_html_()
    assert run.report._repr_html_().startswith("<iframe srcdoc=") and run.report.html.startswith("<!")
    runs = da.runs(library[0])
    assert run.name in runs._repr_html_() and run in runs
    assert runs.table().loc[run.name, "state"] == "finished"
    assert runs["small"].name == runs["last"].name == runs[-1].name == run.name
    assert runs[-1].recipe == da.recipe("small") and len(runs[-1:]) == 1


def test_images_of_stages(run):
    aligned = run.images("aligned", n=5)
    assert len(aligned) == 5 and len(run.images("aligned")) == 40
    assert aligned[0].label == 0 and aligned[-1].label > aligned[0].label
    assert aligned[0].image.size == (16, 16) and aligned[0]._repr_png_().startswith(b"\x89PNG")
    assert aligned._repr_html_().count("<img") == 5 and len(aligned[1:3]) == 2
    assert len(run.images("clean", n=3)) == 3  # read in place
    for stage, n, said in (
        ("algned", 1, "Did you mean 'aligned'"),
        ("classifier", 1, "holds no images. It has images in: "),
        ("aligned", -1, "n is -1"),
        ("aligned", "3", "n is '3'"),
    ):
        with pytest.raises(da.DiffadaptError, match=said):
            run.images(stage, n=n)


def test_a_model_predicts_what_was_stored(run):
    """All ways to hand an image in give one input, and the model's logits on it are the run's."""
    import torch

    from diffadapt.core.record import predictions_by_key

    model, target = run.model(), run.images("projected")
    assert not model.training and model.class_names == tuple("0123456789")
    first = target[0]
    given = [model.transform(x) for x in (first, first.data, first.image, np.asarray(first.image))]
    assert all(torch.equal(x, given[0]) for x in given)
    with torch.no_grad():
        logits = model(torch.stack([model.transform(p) for p in target])).numpy()
    root, nodes = run.folder.root, run.manifest["nodes"]
    stored = predictions_by_key(
        [root.store.load(path) for _, _, _, path in nodes["finetuned_on_projected"]["shards"]]
    )
    assert np.abs(np.stack([stored[p.key][1] for p in target]) - logits).max() < 1e-4


def test_models_by_other_names(run):
    assert type(run.model("SDA")) is type(run.model("classifier"))
    for name, seed, said in (
        ("finetund", None, "Did you mean 'finetuned'"),
        (None, None, "no trained model 'None'"),
        ("model", 7, "of the seed 7"),
        ("synth", None, "is no classifier"),
    ):
        with pytest.raises(da.DiffadaptError, match=said):
            run.model(name, seed=seed)
    for wrong, said in (
        (None, "NoneType is no image"),
        (np.zeros((3, 3)), "uint8"),
        ("/no.png", "not exist"),
    ):
        with pytest.raises(da.DiffadaptError, match=said):
            run.model().transform(wrong)


def test_an_interrupted_run_goes_on(library, tmp_path, monkeypatch):
    """Ctrl-C in the middle raises KeyboardInterrupt, gives the signal back and leaves what is made; the same
    call, here from another thread, comes to the same scores."""
    plain, receipt, before = library[1], Progress.receipt, signal.getsignal(signal.SIGINT)
    seen = []

    def interrupted(self, found):
        receipt(self, found)
        seen.append(found)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "receipt", interrupted)
        da.run("small", root=tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    run = da.runs(tmp_path)[0]
    assert run.state == "interrupted" and str(run) == f"{run.name}: interrupted"
    missing, shards = da.plan("small", root=tmp_path).missing, da.plan("small", root=tmp_path).shards
    assert 0 < missing < shards
    for look in (run.table, run.model, run.images, lambda: run.report, lambda: run.predictions):
        with pytest.raises(da.DiffadaptError, match="run its recipe again"):
            look()
    with pytest.raises(da.DiffadaptError, match="did not come to its end"):
        da.predict(run, ["/nowhere.png"])

    done = []
    other = threading.Thread(target=lambda: done.append(da.run("small", root=tmp_path, progress=False)))
    other.start()
    other.join()
    assert done[0].state == run.state == "finished"
    assert done[0].scores.equals(plain.scores)


def test_a_value_of_ones_own(tmp_path, library):
    """A recipe that no name stands for runs; its run says how it is found again."""
    value = da.recipe("small").value
    run = da.run(da.recipe(value, name="mine"), root=library[0], progress=False)
    assert run.name.startswith("mine-") and run.recipe.value == value
    with pytest.raises(da.DiffadaptError, match="keep the value"):
        _ = da.runs(library[0])["mine"].recipe
