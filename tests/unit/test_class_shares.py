"""Shares of classes in the target: the published estimators, what a run shows of them, and the split that
takes as many images of a class as there are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffadapt.core.artifact import Rows, Shard
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.recipes import load
from diffadapt.core.record import predictions_by_key, softmax
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.metrics import class_shares
from diffadapt.metrics.class_shares import BBSE, BCTS, MLLS, absent, bbse, calibrate, distance, estimate, mlls
from diffadapt.report.html import render
from diffadapt.report.own import class_shares as section
from diffadapt.run.class_shares import shares_of
from diffadapt.run.held_out import stored
from diffadapt.run.without_labels import without_labels
from diffadapt.stages.models import logits_rows
from diffadapt.stages.roles import held_out_keys, kept_keys
from diffadapt.tasks.classification.hold_out import HoldOut, chosen
from diffadapt.tasks.classification.split import Split, choose, read_split
from diffadapt.train.reporter import LocalReporter
from tests.auditkit import drawn_run

GOLDEN = Path(__file__).parents[1] / "golden" / "shares"


@pytest.fixture(scope="module")
def theirs() -> dict:
    """Numbers of Alexandari's code, see tests/golden/shares/README.md."""
    numbers = json.loads((GOLDEN / "abstention.json").read_text())
    return {k: np.array(v) for k, v in numbers.items()}


class TestTheEstimators:
    def test_calibration_is_the_authors(self, theirs):
        found = calibrate(theirs["source_logits"], theirs["source_labels"])
        assert np.abs(found.probabilities(theirs["source_logits"])[:5] - theirs["bcts_source"]).max() < 1e-3

    def test_shares_with_and_without_calibration_are_the_authors(self, theirs):
        found = calibrate(theirs["source_logits"], theirs["source_labels"])
        before = found.probabilities(theirs["source_logits"]).mean(0)
        shares = mlls(found.probabilities(theirs["target_logits"]), before)
        assert np.abs(shares - theirs["bcts_mlls"]).max() < 1e-3
        prior = np.bincount(theirs["source_labels"])
        plain = estimate(theirs["target_logits"], prior)
        assert plain.how == MLLS and np.abs(plain.shares - theirs["mlls"]).max() < 1e-4

    @pytest.mark.parametrize("soft", [False, True])
    def test_black_box_shift_is_the_authors(self, theirs, soft):
        p, q = softmax(theirs["source_logits"]), softmax(theirs["target_logits"])
        found = bbse(p, theirs["source_labels"], q, soft)
        weights = theirs["bbse_soft" if soft else "bbse"]  # they leave it to the user to make shares of them
        shares = weights * np.bincount(theirs["source_labels"]) / len(p)
        assert found == pytest.approx(shares / shares.sum(), abs=1e-9)

    def test_held_out_images_give_their_confusion_or_else_a_calibration(self, theirs):
        z, labels = theirs["source_logits"], theirs["source_labels"]
        by = estimate(theirs["target_logits"], np.zeros(0), (z, labels))
        assert by.how == BBSE and by.shares[2] == 0 and distance(by.shares, theirs["true"]) < 0.12
        some = labels < 4  # no held-out image of the last class
        assert estimate(theirs["target_logits"], np.zeros(0), (z[some], labels[some])).how == BCTS

    def test_equal_shares_stay_and_an_absent_class_goes(self):
        rng = np.random.default_rng(0)
        y = rng.integers(4, size=400)
        z = rng.normal(size=(400, 4)) + 4 * np.eye(4)[y]
        assert distance(mlls(softmax(z), np.full(4, 0.25)), np.bincount(y) / 400) < 0.05
        found = mlls(softmax(z[y != 2]), np.full(4, 0.25))
        assert absent(found).tolist() == [False, False, True, False] and found[2] < 0.01

    def test_what_gives_no_shares_is_refused(self):
        with pytest.raises(DataError, match="not trained on"):
            calibrate(np.zeros((0, 3)), np.zeros(0))
        with pytest.raises(DataError, match="every class needs a source image"):
            mlls(np.full((2, 2), 0.5), np.array([1.0, 0.0]))
        with pytest.raises(DataError, match="cannot be inverted"):
            bbse(np.eye(3)[[0, 1, 1]], np.array([0, 1, 2]), np.eye(3))


def job(folder: Path, inputs: dict[str, Rows], fitted: dict[str, str] | None = None, kind="uda") -> FitJob:
    folder.mkdir(exist_ok=True)
    files = [InputFile(name, name, name, Shard(name, {})) for name in inputs]
    files += [InputFile(name, name, name, Shard(name, {}), True, kind=kind) for name in fitted or {}]
    return FitJob(
        "split",
        lambda n: [f for f in files if f.node == n],
        None,
        "",
        str(folder),
        WorkContext("cpu", fitted or {}, kinds=dict.fromkeys(fitted or {}, kind)),
        LocalReporter(),
        lambda f: inputs[f.digest],
        files=files,
    )


class TestTheSplit:
    def test_numbers_follow_the_shares(self):
        predicted = np.array([0] * 6 + [1] * 3 + [2])
        confidence = np.linspace(0.9, 0.4, 10)
        keys = [f"{i}" for i in range(10)]
        shares = np.array([0.4, 0.56, 0.04])
        good = choose(predicted, confidence, keys, SplitConfig(fraction=0.5), shares)
        assert np.flatnonzero(good).tolist() == [0, 1, 6, 7, 8]  # of the second all three, of the third none

    def test_a_class_that_is_not_there_gets_no_pseudo_label(self, tmp_path):
        rng = np.random.default_rng(1)
        y = rng.choice(3, 90, p=[0.6, 0.4, 0.0])
        z = rng.normal(size=(90, 3)) + 2 * np.eye(3)[y]
        rows = logits_rows([f"{i:02d}" for i in range(90)], [None] * 90, z, [])
        (tmp_path / "metrics.json").write_text(json.dumps({"source_per_class": {"a": 6, "b": 5, "c": 4}}))
        fixed = Split(SplitConfig(), 3, ("b", "a", "c"))
        before = fixed.fit(job(tmp_path / "before", {"on_target": rows}))
        stage = replace(fixed, config=SplitConfig(shares="estimated"))
        after = stage.fit(job(tmp_path / "after", {"on_target": rows}, {"mcc": str(tmp_path)}))
        assert before["per_class"]["c"][1] > 2 and after["per_class"]["c"][1] <= 1
        assert after["shares"]["c"] < 5 and after["shares_how"] == MLLS and "shares" not in before
        by_name = 100 * mlls(softmax(z.astype(np.float32)), np.array([5, 6, 4]))  # JSON is stored sorted
        assert list(after["shares"].values()) == pytest.approx(by_name.tolist(), abs=0.01)
        right = {f"{i:02d}": int(c) for i, c in enumerate(y)}
        for name in ("before", "after"):
            taken = [
                label == right[key] for key, (label, good) in read_split(tmp_path / name).items() if good
            ]
            assert np.mean(taken) > (0.9 if name == "after" else 0.8)
        y = rng.integers(3, size=60)
        held = logits_rows([f"s{i}" for i in range(60)], y, rng.normal(size=(60, 3)) + 2 * np.eye(3)[y], [])
        by = stage.fit(job(tmp_path / "held", {"on_target": rows, "on_held_out": held}))
        assert by["shares_how"] == BBSE and by["shares"]["c"] < 5
        assert after["shares_lacking"] < 10 and not any("instead" in w for w in after["warnings"])
        collapsed = logits_rows(rows.column("key"), [None] * 90, z * 0 + [0.0, 0.1, 0.5], [])
        turned = logits_rows(list("xyz"), [0, 1, 2], 9 * np.eye(3)[[2, 0, 1]], [])
        gone = stage.fit(job(tmp_path / "gone", {"on_target": collapsed, "on_held_out": turned}))
        assert gone["confident"] == 45 and "fraction of every predicted class" in gone["warnings"][-1]
        none = {"on_target": rows, "on_held_out": logits_rows([], [], np.zeros((0, 3)), [])}
        with pytest.raises(DataError, match="no source image is held out"):
            stage.fit(job(tmp_path / "none", none))

    def test_identity_and_settings_that_do_not_fit(self):
        plain = Split(SplitConfig(), 3)
        assert "shares" not in plain.identity()
        other = replace(plain, config=SplitConfig(shares="estimated"))
        assert {**other.identity(), "shares": 0} == {**plain.identity(), "shares": 0} != other.identity()
        assert "cannot be estimated" in replace(plain, unadapted=True).notes()[0] and not plain.notes()
        assert replace(plain, unadapted=True).identity() == plain.identity()
        with pytest.raises(RecipeError, match="set split.rule to top"):
            replace(plain, config=SplitConfig(rule="threshold", shares="estimated")).plan({})

    def test_what_no_image_can_be_held_out_of_is_refused_while_planning(self):
        whole = load("adapt_anything/digits")
        made = replace(
            whole,
            held_out=0.5,
            split=replace(whole.split, shares="estimated"),
            generator=replace(whole.generator, images_per_class=1),
        )
        with pytest.raises(RecipeError, match="one a class leaves none"):
            made.pipeline()
        assert replace(made, held_out=0.0).pipeline()


class TestHeldOut:
    def test_part_of_every_class_and_never_the_last_image(self):
        keys = [f"a/{i}" for i in range(20)]
        held = chosen(keys, 0.2, 0)
        assert len(held) == 4 and set(held) == set(chosen(keys[::-1], 0.2, 0)) != set(chosen(keys, 0.2, 1))
        assert set(held) < set(chosen(keys, 0.4, 0)) and len(chosen(keys[:3], 0.1, 0)) == 1
        assert chosen(keys[:1], 0.5, 0) == []

    def test_training_goes_without_them_and_without_what_a_filter_left_out(self, tmp_path):
        filtered = tmp_path / "filter"
        filtered.mkdir()
        gone = {"s/03", "s/17"}
        reasons = ["blank" if key in gone else "" for key in self.keys()]
        columns = {"key": self.keys(), "kept": [not r for r in reasons], "reason": reasons}
        pq.write_table(pa.table(columns), filtered / "kept.parquet")
        stage, folder = HoldOut(0.25, ("a", "b")), tmp_path / "out"
        metrics = stage.fit(job(folder, {"synth": self.rows()}, {"filter": str(filtered)}, "filter"))
        context = self.context(folder, stage.kind)
        held, kept = held_out_keys(context) or set(), kept_keys(context) or set()
        assert metrics["held_out"] == len(held) == 5 and metrics["per_class"] == {"a": 4, "b": 1}
        assert not held & kept and not gone & (kept | held) and len(held | kept | gone) == 20
        assert held_out_keys(self.context(folder, "filter")) is None
        alone = stage.fit(job(tmp_path / "one", {"synth": logits_rows(["x"], [0], np.zeros((1, 1)), [])}))
        assert alone["held_out"] == 0 and "which training needs" in alone["warnings"][0]

    @staticmethod
    def keys():
        return [f"s/{i:02d}" for i in range(20)]

    def rows(self) -> Rows:
        return logits_rows(self.keys(), [0] * 16 + [1] * 4, np.zeros((20, 1)), [])

    @staticmethod
    def context(folder, kind):
        return WorkContext("cpu", {"n": str(folder)}, kinds={"n": kind})


def load_of(run, manifest):
    """Prediction node of ``manifest`` -> its logits."""
    nodes = manifest["nodes"]
    return lambda n: predictions_by_key([run.root.store.load(p) for _, _, _, p in nodes[n]["shards"]])


def with_held_out(run):
    """The manifest of a drawn run whose second row's model also answered on source images."""
    manifest = run.manifest()
    nodes = manifest["nodes"]
    nodes["held_out.synth"] = {**nodes["target"], "kind": "held-out"}
    nodes["mcc_on_held_out"] = {**nodes["row1.s0"], "inputs": ["target", "model.row1.s0", "held_out.synth"]}
    return manifest


class TestOffice31:
    """Real logits of MCC, amazon to webcam: ten classes are not in the target."""

    @pytest.fixture(scope="class")
    def office(self) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / "office31.npz") as found:
            return {
                n.removeprefix("absent_"): v.astype(np.float64) for n, v in found.items() if "absent" in n
            }

    @pytest.mark.parametrize("how, most", [(MLLS, 0.5), (BBSE, 0.8)])
    def test_their_shares_go_down_and_the_split_takes_fewer_of_them(self, office, how, most):
        z, y, gone = office["mcc_target"], office["y"].astype(int), office["gone"].astype(int)
        held = (office["mcc_held"], office["held_y"].astype(int)) if how == BBSE else None
        found = estimate(z, np.bincount(office["train_y"].astype(int)), held)
        predicted, p = z.argmax(1), softmax(z)
        counted = np.bincount(predicted, minlength=31) / len(z)
        assert found.how == how and found.shares[gone].sum() < most * counted[gone].sum()
        assert absent(found.shares)[gone].sum() >= max(7, absent(counted)[gone].sum())
        keys = [f"{i:03d}" for i in range(len(z))]
        before = choose(predicted, p.max(1), keys, SplitConfig())
        after = choose(predicted, p.max(1), keys, SplitConfig(shares="estimated"), found.shares)
        forced, right = (np.isin(predicted, gone), predicted == y)
        assert (forced & after).sum() < most * (forced & before).sum()
        assert right[after].mean() > right[before].mean()
        assert len(np.unique(y[after])) == 21  # none of the classes that are there is lost


class TestTheReport:
    def test_rows_of_stage_1_by_the_sources_shares(self, tmp_path):
        run, truth = drawn_run(tmp_path, images=200)
        even = {name: 5 for name in run.manifest()["class_names"]}
        found = shares_of(run.manifest(), stored(run), lambda node: {"source_per_class": even})
        assert found and [r["row"] for r in found["rows"]] == ["Source only", "MCC", "MCC + FixMatch"]
        row = found["rows"][1]
        assert row["how"] == MLLS and sum(row["estimated"]) == pytest.approx(100, abs=0.1)
        assert row["true"] == pytest.approx(100 * np.bincount(truth, minlength=4) / 200, abs=0.01)
        assert row["estimated_error"] == pytest.approx(
            np.abs(np.subtract(row["estimated"], row["true"])).sum() / 2, abs=0.05
        )
        manifest = run.manifest()
        manifest["nodes"]["model.row2.s0"]["kind"] = "ssl"
        manifest["rows"][0]["role"] = {"kind": "source_only"}
        left = shares_of(manifest, stored(run), lambda node: {"source_per_class": even})
        assert left and left["left_out"] == ["Source only", "MCC + FixMatch"] and len(left["rows"]) == 1
        none = shares_of(manifest, stored(run), lambda node: {})  # of a version that did not count
        assert none and not none["rows"] and len(none["left_out"]) == 3

    def test_held_out_images_calibrate_a_row_and_give_its_guess_of_the_accuracy(self, tmp_path):
        run, _ = drawn_run(tmp_path, images=200)
        manifest = with_held_out(run)
        found = shares_of(manifest, load_of(run, manifest), lambda node: {})
        assert found and [(r["row"], r["how"]) for r in found["rows"]] == [("MCC", BBSE)]
        guessed = without_labels(manifest, load_of(run, manifest))
        assert (
            guessed
            and guessed["rows"][0]["row"] == "MCC"
            and not any("held" in m for m in guessed["missing"])
        )

    def test_a_recipe_that_could_hold_no_image_out(self, tmp_path):
        """One image a class leaves none to spare: such rows have no estimate, and the run ends."""
        run, _ = drawn_run(tmp_path, images=200)
        manifest = with_held_out(run)
        manifest["nodes"]["model.row1.s0"]["kind"] = "ssl"
        some = load_of(run, manifest)
        found = shares_of(manifest, lambda n: {} if n == "mcc_on_held_out" else some(n), lambda node: {})
        assert found and "MCC" in found["left_out"] and not found["rows"]

    def test_no_estimate_is_shown_without_its_error(self, tmp_path, monkeypatch):
        run, _ = drawn_run(tmp_path, images=80)
        names = run.manifest()["class_names"]
        data = {"classes": names, "left_out": ["MCC + FixMatch"], "rows": [
            {"row": "MCC", "group": "", "seeds": 1, "how": MLLS, "estimated": [60.0, 38.0, 2.0, 0.0],
             "predicted": [50.0, 30.0, 15.0, 5.0], "true": [60.0, 40.0, 0.0, 0.0], "estimated_error": 2.0,
             "predicted_error": 20.0, "absent": ["=helmet", "mug"]}]}  # fmt: skip
        run.write(section.FILE, json.dumps(data).encode())
        monkeypatch.setattr(section, "KNOWN", ())
        assert "Estimates, not" not in render(run)
        known = class_shares.Known(MLLS, "drawn runs", 3, 6.5, 12.25, 10, 9, 2)
        monkeypatch.setattr(section, "KNOWN", (known,))
        page = render(run)
        assert (
            "off by 6.5 points (total variation) in the mean" in page
            and "Estimates, not measurements" in page
        )
        assert "probably not in the target: =helmet, mug" in page and "--held-out 0.1" in page
        assert page.count("probably not in the target</td>") == 2

    def test_the_errors_that_ship(self):
        assert {k.how for k in class_shares.KNOWN} == {MLLS, BCTS, BBSE}
        assert all(k.error < 100 and k.found <= k.absent for k in class_shares.KNOWN)
