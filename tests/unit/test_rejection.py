"""Images of no listed class: the energy's published figures, targets that have such images, and the answer
"(none of these)"."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffadapt.core.errors import DataError
from diffadapt.core.predictions import NONE_OF_THESE, predictions_parquet
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.metrics.rejection import KNOWN, auroc, energy, fpr, limit
from diffadapt.report.html import render
from diffadapt.report.own.other_classes import FILE
from diffadapt.run.held_out import stored
from diffadapt.run.other_classes import others_of
from diffadapt.stages.images import Images
from tests.auditkit import drawn_run
from tests.unit.test_class_shares import load_of, with_held_out

GOLDEN = Path(__file__).parents[1] / "golden" / "shares"


def test_figures_are_the_authors():
    """energy_ood's get_measures, see tests/golden/shares/README.md."""
    theirs = json.loads((GOLDEN / "abstention.json").read_text())
    known, other = np.array(theirs["known"]), np.array(theirs["other"])
    assert auroc(known, other) == pytest.approx(theirs["auroc"], abs=1e-12)
    assert fpr(known, other) == pytest.approx(theirs["fpr95"], abs=1e-12)


def test_ten_classes_that_are_not_listed():
    """Real logits of MCC on Office-31, amazon to webcam."""
    with np.load(GOLDEN / "office31.npz") as found:
        z, y = found["unlisted_mcc_target"].astype(np.float64), found["unlisted_y"]
        held = found["unlisted_mcc_held"].astype(np.float64)
    assert z.shape == (795, 21) and (y < 0).sum() > 200
    known, other = energy(z)[y >= 0], energy(z)[y < 0]
    assert 0.7 < auroc(known, other) < 0.8 and fpr(known, other) < 0.85
    for values in (held, z):  # listed images stay, and of the others more are rejected
        above = limit(energy(values))
        assert (known > above).mean() < 0.05 and (other > above).mean() > 3 * (known > above).mean()


def test_energy_is_minus_the_log_of_the_sum():
    z = np.array([[1.0, 2.0, 3.0], [900.0, 0.0, -900.0]])
    assert energy(z) == pytest.approx([-np.log(np.exp(z[0]).sum()), -900])
    assert energy(z, 2.0)[0] == pytest.approx(-2 * np.log(np.exp(z[0] / 2).sum()))
    values = np.arange(100.0)
    assert limit(values) == 94 and (values <= limit(values)).mean() == 0.95 and limit(values[:1]) == 0
    with pytest.raises(DataError, match="needs predictions"):
        limit(np.zeros(0))


class TestATargetWithOtherClasses:
    NAMES = ("back pack", "mug")

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for i, name in enumerate(("mug", "mug", "back_pack", "ruler", "stapler", "stapler")):
            place = tmp_path / "target" / name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(encode_png(np.full((4, 4, 3), 30 * i, np.uint8)))
        return tmp_path / "target"

    def images(self, folder, others: bool, classes: str | None = None) -> Images:
        data = DataConfig(path=str(folder), classes=classes)
        return Images(data, (("target/0", ""),), subset=True, names=self.NAMES, others=others)

    def test_they_are_refused_unless_they_are_to_stay(self, folder, tmp_path):
        with pytest.raises(DataError, match="'ruler', 'stapler'"):
            self.images(folder, False).source("")
        (tmp_path / "classes.txt").write_text("back pack\nmug\n")
        for classes in (None, str(tmp_path / "classes.txt")):
            stage = self.images(folder, True, classes)
            found = stage.source("")
            assert found and [(i.key.split("/")[0], i.label) for i in found.items] == [
                ("back_pack", 0), ("mug", 1), ("mug", 1),
                ("ruler", None), ("stapler", None), ("stapler", None),
            ]  # fmt: skip
            (note,) = [n for n in stage.notes() if "not listed" in n]
            assert "3 images" in note and "2 classes that are not listed ('ruler', 'stapler')" in note

    def test_nothing_changes_where_there_are_none(self, folder):
        for name in ("ruler", "stapler"):
            for file in (folder / name).iterdir():
                file.unlink()
            (folder / name).rmdir()
        kept, refused = (self.images(folder, others) for others in (True, False))
        assert kept.identity() == refused.identity() and kept.notes() == refused.notes()


def test_a_run_counts_what_it_rejects(tmp_path):
    run, truth = drawn_run(tmp_path, images=200)
    assert others_of(run.manifest(), stored(run)) is None  # no image held out, and none of another class
    manifest = with_held_out(run)
    held = others_of(manifest, load_of(run, manifest))
    (row,) = held["rows"]
    assert row["row"] == "MCC" and row["rule"].startswith("source images") and row["rejected"] == 10
    assert "auroc" not in row
    manifest = run.manifest()
    manifest["config"] = {"unlisted": "keep"}
    load = stored(run)

    def without_mugs(node):
        return {k: (None if label == 3 else label, z) for k, (label, z) in load(node).items()}

    kept = others_of(manifest, without_mugs)
    assert [r["row"] for r in kept["rows"]] == ["Source only", "MCC", "MCC + FixMatch"]
    assert all(r["others"] == (truth == 3).sum() and 0 < r["auroc"] < 100 for r in kept["rows"])
    run.write(FILE, json.dumps(kept).encode())
    page = render(run)
    assert "Images of no listed class" in page and "whatever they show; --held-out 0.1" in page


def test_rejected_images_are_none_of_these():
    predictions = {f"t/0/{name}": (None, np.array([2.0, 1.0])) for name in "ab"}
    energies = {"t/0/a": -3.0, "t/0/b": -1.0}
    rows = pq.read_table(
        io.BytesIO(predictions_parquet(predictions, ("mug", "pen"), energies, -2.0))
    ).to_pylist()
    assert [(r["path"], r["label"], r["class"], r["nearest"], r["energy"]) for r in rows] == [
        ("a", 0, "mug", "mug", -3.0),
        ("b", -1, NONE_OF_THESE, "mug", -1.0),
    ]
    plain = pq.read_table(io.BytesIO(predictions_parquet(predictions, ("mug", "pen"))))
    assert plain.column_names == ["path", "label", "class", "confidence"]


def test_the_error_that_ships():
    assert KNOWN and all(50 < k.auroc <= 100 and 0 <= k.fpr95 <= 100 for k in KNOWN)
