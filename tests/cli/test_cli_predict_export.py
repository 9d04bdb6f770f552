"""`predict` on new images and `export` of a run's images and models, from a finished small run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm

from diffadapt.cli import main
from diffadapt.core.record import predictions_by_key, softmax
from diffadapt.core.runs import Root
from diffadapt.data.embedded import digits
from diffadapt.data.image import encode_png


@pytest.fixture
def root(shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's root, so that predictions do not show up in the other tests' root."""
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(shell.pipelines))
    shutil.copytree(shell.small, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "new photos"
    folder.mkdir()
    _, images, _ = digits("test")
    for i in range(7):
        (folder / f"{i}.png").write_bytes(encode_png(images[i * 50]))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    return folder


def predict(root: Path, photos: Path, out: Path) -> list[dict]:
    words = ["predict", str(photos), "--run", "last", "--out", str(out), "--root", str(root), "--block", "3"]
    assert main([*words, "--execution.runner", "local", "--execution.max-failed-fraction", "0.5"]) == 0
    return pq.read_table(out).to_pylist()


def test_predictions_are_the_ensemble_of_both_models_and_resume_from_the_store(root, photos, tmp_path, capsys) -> None:
    rows = predict(root, photos, tmp_path / "a.parquet")
    assert [r["path"] for r in rows] == [f"{i}.png" for i in range(7)]
    assert "quarantine.jsonl" in capsys.readouterr().err
    (name,) = [n for n in Root(str(root)).names() if n.startswith("predict-")]
    run = Root(str(root)).run(name)
    nodes = run.manifest()["nodes"]
    source, tuned = (
        predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[n]["shards"]]) for n in ("source_on_images", "finetuned_on_projected")
    )
    for row in rows:
        key = f"target/0/{row['path']}"
        both = (softmax(source[key][1][None]) + softmax(tuned[key][1][None]))[0] / 2
        assert row["label"] == row["ensemble_label"] == int(both.argmax())
        assert row["confidence"] == pytest.approx(both.max())
        assert row["ensemble_class"] == str(row["label"])
    before = {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*.parquet")}
    assert predict(root, photos, tmp_path / "b.parquet") == rows
    assert {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*.parquet")} == before


def test_a_prediction_does_not_need_the_training_data(root, photos, tmp_path, monkeypatch) -> None:
    import diffadapt.data.embedded as embedded

    rows = predict(root, photos, tmp_path / "a.parquet")
    monkeypatch.setattr(embedded, "digits", lambda *_: pytest.fail("the training data was opened"))
    shutil.rmtree(root / "store" / "aligned")
    assert predict(root, photos, tmp_path / "b.parquet") == rows


def test_exported_images_lie_as_other_tools_expect(shell, tmp_path) -> None:
    for what, layout in (("aligned", "imagefolder"), ("projected", "imagenet-c-syn"), ("target", "flat")):
        out = tmp_path / layout
        assert main(["export", shell.name, "--root", str(shell.small), "--what", what, "--layout", layout, "--out", str(out)]) == 0
    assert sorted(p.name for p in (tmp_path / "imagefolder").iterdir()) == [str(c) for c in range(10)]
    assert len(list((tmp_path / "imagefolder" / "3").glob("*.png"))) == 4
    parts = {p.relative_to(tmp_path / "imagenet-c-syn").parts for p in (tmp_path / "imagenet-c-syn").rglob("*.png")}
    assert {part[:2] for part in parts} == {("gaussian_noise", "5"), ("contrast", "5")} and all(len(part) == 4 for part in parts)
    assert (tmp_path / "flat" / "labels.csv").is_file()


def test_an_exported_model_is_a_timm_folder_with_a_card(shell, tmp_path) -> None:
    import torch

    out = tmp_path / "model"
    assert main(["export", shell.name, "--root", str(shell.small), "--what", "finetuned", "--out", str(out)]) == 0
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    card = (out / "README.md").read_text()
    assert "SDA: mean top-1" in card and "Source: mean top-1" in card and shell.name.rpartition("-")[2] in card
    assert json.loads((out / "config.json").read_text())["label_names"] == [str(c) for c in range(10)]
    assert not (out / "_SUCCESS").exists() and not (out / "family.json").exists()


@pytest.mark.parametrize("what, words", [("finetuend", "Did you mean 'finetuned'"), ("clean", "your own files"), ("source_on_target", "predictions")])
def test_what_cannot_be_exported_is_said(shell, tmp_path, capsys, what, words) -> None:
    assert main(["export", shell.name, "--root", str(shell.small), "--what", what, "--out", str(tmp_path / "x")]) == 2
    assert words in capsys.readouterr().err


