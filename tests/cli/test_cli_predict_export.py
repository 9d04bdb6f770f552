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
    assert main([*words, "--execution.runner", "local"]) == 0
    return pq.read_table(out).to_pylist()


def test_predictions_are_the_ensemble_of_both_models_and_resume_from_the_store(
    root, photos, tmp_path, capsys
) -> None:
    every = predict(root, photos, tmp_path / "a.parquet")
    rows, broken = every[:7], every[7:]
    assert [r["path"] for r in rows] == [f"{i}.png" for i in range(7)] and {r["reason"] for r in rows} == {
        None
    }
    assert [r["path"] for r in broken] == ["broken.jpg"] and broken[0]["label"] is None
    assert "broken.jpg is not a readable image" in broken[0]["reason"]
    assert "1 image could not be read" in capsys.readouterr().err
    (name,) = [n for n in Root(str(root)).names() if n.startswith("predict-")]
    run = Root(str(root)).run(name)
    nodes = run.manifest()["nodes"]
    source, tuned = (
        predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[n]["shards"]])
        for n in ("source_on_images", "finetuned_on_projected")
    )
    for row in rows:
        key = f"target/0/{row['path']}"
        both = (softmax(source[key][1][None]) + softmax(tuned[key][1][None]))[0] / 2
        assert row["label"] == row["ensemble_label"] == int(both.argmax())
        assert row["confidence"] == pytest.approx(both.max())
        assert row["ensemble_class"] == str(row["label"])
    before = {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*.parquet")}
    assert predict(root, photos, tmp_path / "b.parquet") == every
    assert {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*.parquet")} == before


def test_loose_photos_and_those_in_folders_are_all_predicted(root, photos, tmp_path, capsys) -> None:
    (photos / "broken.jpg").unlink()
    (photos / "later").mkdir()
    (photos / "to_sort").mkdir()
    (photos / "0.png").rename(photos / "later" / "0.png")
    rows = predict(root, photos, tmp_path / "a.parquet")
    assert [r["path"] for r in rows] == [*(f"{i}.png" for i in range(1, 7)), "later/0.png"]
    assert "reason" not in rows[0]
    for file in photos.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:40])
    words = [
        "predict",
        str(photos),
        "--run",
        "last",
        "--out",
        str(tmp_path / "b.parquet"),
        "--root",
        str(root),
    ]
    assert main([*words, "--execution.runner", "local"]) != 0
    assert "None of the 7 images" in capsys.readouterr().err and not (tmp_path / "b.parquet").exists()


def test_a_prediction_does_not_need_the_training_data(root, photos, tmp_path, monkeypatch) -> None:
    import diffadapt.data.embedded as embedded

    rows = predict(root, photos, tmp_path / "a.parquet")
    monkeypatch.setattr(embedded, "digits", lambda *_: pytest.fail("the training data was opened"))
    shutil.rmtree(root / "store" / "aligned")
    assert predict(root, photos, tmp_path / "b.parquet") == rows


def test_exported_images_lie_as_other_tools_expect(shell, tmp_path) -> None:
    for what, layout in (("aligned", "imagefolder"), ("projected", "imagenet-c-syn"), ("target", "flat")):
        out = tmp_path / layout
        assert (
            main(
                [
                    "export",
                    shell.name,
                    "--root",
                    str(shell.small),
                    "--what",
                    what,
                    "--layout",
                    layout,
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
    assert sorted(p.name for p in (tmp_path / "imagefolder").iterdir()) == [str(c) for c in range(10)]
    assert len(list((tmp_path / "imagefolder" / "3").glob("*.png"))) == 4
    parts = {
        p.relative_to(tmp_path / "imagenet-c-syn").parts for p in (tmp_path / "imagenet-c-syn").rglob("*.png")
    }
    assert {part[:2] for part in parts} == {("gaussian_noise", "5"), ("contrast", "5")} and all(
        len(part) == 4 for part in parts
    )
    assert (tmp_path / "flat" / "labels.csv").is_file()


def test_an_exported_model_is_a_timm_folder_with_a_card(shell, tmp_path) -> None:
    import torch

    out = tmp_path / "model"
    assert (
        main(["export", shell.name, "--root", str(shell.small), "--what", "finetuned", "--out", str(out)])
        == 0
    )
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    card = (out / "README.md").read_text()
    assert (
        "SDA: mean top-1" in card and "Source: mean top-1" in card and shell.name.rpartition("-")[2] in card
    )
    assert json.loads((out / "config.json").read_text())["label_names"] == [str(c) for c in range(10)]
    assert not (out / "_SUCCESS").exists() and not (out / "family.json").exists()


@pytest.mark.parametrize(
    "what, words",
    [
        ("finetuend", "Did you mean 'finetuned'"),
        ("clean", "your own files"),
        ("source_on_target", "predictions"),
    ],
)
def test_what_cannot_be_exported_is_said(shell, tmp_path, capsys, what, words) -> None:
    assert (
        main(["export", shell.name, "--root", str(shell.small), "--what", what, "--out", str(tmp_path / "x")])
        == 2
    )
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Path:
    """A folder with a finished run of Adapt Anything under ``root``."""
    import torch
    from adapting import prepare

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("adapted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DIFFADAPT_PIPELINES", "")
        assert main([*prepare(folder), "--held-out", "0.34"]) == 0
    return folder


def test_a_run_of_adapt_anything_leaves_model_predictions_and_report(adapted) -> None:
    import torch
    from adapting import NAMES

    run = Root(str(adapted / "root")).run("last")
    folder = Path(run.url)
    model = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10) and json.loads(
        (folder / "model" / "config.json").read_text()
    )["label_names"] == list(NAMES)
    card = (folder / "model" / "README.md").read_text()
    assert (
        "DANN \\+ FixMatch: top-1 accuracy on the target" in card
        and "Synthetic only: top-1" in card
        and "Synthetic training images were made by generator" in card
    )
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(rows) == 40 and all(
        r["class"] == NAMES[r["label"]] and 0.1 <= r["confidence"] <= 1 for r in rows
    )
    assert {r["path"] for r in rows} == {
        p.relative_to(adapted / "target").as_posix() for p in (adapted / "target").rglob("*.png")
    }
    page = (folder / "report.html").read_text()
    for words in (
        "Synthetic images by class",
        "most and least confident",
        "Features before and after",
        "Confidence on the target",
        "Prompts (source: bank)",
        "photo",
        "CLIP zero-shot, the baseline",
    ):
        assert words in page, words


def test_the_adapted_classifier_predicts_new_images(adapted, photos, tmp_path) -> None:
    from adapting import NAMES

    words = [
        "predict",
        str(photos),
        "--run",
        "smalladapt",
        "--out",
        str(tmp_path / "p.parquet"),
        "--root",
        str(adapted / "root"),
        "--execution.runner",
        "local",
    ]
    assert main(words) == 0
    *rows, broken = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [r["path"] for r in rows] == [f"{i}.png" for i in range(7)]
    assert list(rows[0]) == ["path", "label", "class", "confidence", "reason"]
    assert broken["path"] == "broken.jpg" and broken["class"] is None and broken["reason"]
    run = Root(str(adapted / "root")).run("smalladapt")
    known = {r["path"]: r for r in pq.read_table(Path(run.url) / "predictions.parquet").to_pylist()}
    same = [
        (r, known[p])
        for r, i in zip(rows, range(7), strict=True)
        for p in known
        if p.endswith(f"/{i * 5}.png")
    ]  # photo i is target image 5 i
    assert len(same) == 7 and all(
        a["class"] == b["class"] in NAMES and a["confidence"] == pytest.approx(b["confidence"], abs=1e-4)
        for a, b in same
    )


def test_photos_of_any_size_are_seen_as_the_runs_own_target(adapted, tmp_path, capsys) -> None:
    _, images, _ = digits("test")
    for size in (16, 48):
        (tmp_path / f"{size}").mkdir()
        wide = images[0].repeat(size // 16, 0).repeat(size // 16, 1)
        (tmp_path / f"{size}" / "0.png").write_bytes(encode_png(wide))
        words = ["predict", str(tmp_path / f"{size}"), "--run", "smalladapt", "--execution.runner", "local"]
        out = ["--out", str(tmp_path / f"{size}.parquet"), "--root", str(adapted / "root")]
        assert main([*words, *out]) == 0
    (small,), (large,) = (pq.read_table(tmp_path / f"{s}.parquet").to_pylist() for s in (16, 48))
    # not the middle sixteen pixels of 48: a ninth of the digit
    assert large["class"] == small["class"] and large["confidence"] == pytest.approx(
        small["confidence"], abs=0.02
    )
    assert "another input" not in capsys.readouterr().err  # of the run's own model, as it was trained


def test_an_image_of_no_class_is_none_of_these(adapted, photos, tmp_path, capsys) -> None:
    (photos / "broken.jpg").unlink()
    root, out = str(adapted / "root"), str(tmp_path / "p.parquet")
    words = ["predict", str(photos), "--run", "smalladapt", "--root", root, "--out", out]
    assert main([*words, "--reject", "energy", "--reject-tpr", "0.5", "--execution.runner", "local"]) == 0
    rows, said = pq.read_table(out).to_pylist(), capsys.readouterr().out
    limit = float(said.split("their energy is above ")[1].split(",")[0])
    assert "which 50 % of 10 source images that it was not trained on do not exceed" in said
    rejected = [r for r in rows if r["energy"] > limit + 1e-3]
    assert {(r["class"], r["label"]) for r in rejected} <= {("(none of these)", -1)}
    assert all(r["class"] == r["nearest"] and r["label"] >= 0 for r in rows if r["energy"] < limit - 1e-3)
    assert f"{sum(r['label'] == -1 for r in rows)} of them are (none of these)" in said
    assert main([*words, "--reject", "energy", "--reject-tpr", "1.5"]) == 2
    assert "--reject-tpr is 1.5" in capsys.readouterr().err


def test_prompts_images_and_every_model_of_the_run_are_exported(adapted, tmp_path, capsys) -> None:
    import csv

    def export(what: str) -> int:
        return main(
            [
                "export",
                "smalladapt",
                "--what",
                what,
                "--root",
                str(adapted / "root"),
                "--out",
                str(tmp_path / what),
            ]
        )

    assert [export(w) for w in ("prompts", "synth", "model", "source_only")] == [0, 0, 0, 0]
    with open(tmp_path / "prompts" / "prompts.csv", newline="", encoding="utf-8") as handle:
        listed = list(csv.DictReader(handle))
    assert len(listed) == 30 and listed[0]["category"] == "zero" and "zero" in listed[0]["prompt"]
    assert len(list((tmp_path / "synth" / "seven").glob("*.png"))) == 3
    result, base = ((tmp_path / w / "README.md").read_text() for w in ("model", "source_only"))
    assert (
        "FixMatch" in result
        and "FixMatch" not in base.partition("## Further facts")[0]
        and "Synthetic only" in base
    )
    assert (
        export("validators2") == 2
        and export("dann_on_target") == 2
        and "predictions" in capsys.readouterr().err
    )
