"""The reference numbers of ZoDi's losses, of mean IoU and of label maps, and whether the checks notice what
is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.parity.check import run_parity  # noqa: E402

GOLDEN = Path(__file__).parent / "zodi"
FILES = ("ade_palette.npz", "mappings.npz", "miou.npz", "similarity_loss.npz", "task_ce.npz")


@pytest.fixture(scope="module")
def rows():
    return run_parity(GOLDEN)


@pytest.mark.parametrize("name", FILES)
def test_every_check_of_every_file_is_within_its_gate(rows, name):
    own = [row for row in rows if row.file == name]
    assert len(own) >= 2 and [row for row in own if not row.ok] == []
    assert {row.gate for row in own} <= {1e-5, 0.5}, "1e-5 in float32, integers exactly"


def test_every_number_is_compared(rows):
    """A file's further keys are inputs, or belong to parts that are checked elsewhere."""
    checked = {(row.file, row.check) for row in rows}
    assert {
        ("similarity_loss.npz", c)
        for c in ("similarity loss", "gap_cos", "grad_src", "grad_syn", "gradient flows")
    } <= checked
    assert {("task_ce.npz", c) for c in ("task loss", "gradient")} <= checked
    assert {
        ("miou.npz", c)
        for c in ("confusion", "classes that are absent", "IoU of each class", "mean IoU", "pixel accuracy")
    } <= checked
    assert {
        ("mappings.npz", c)
        for c in (
            "labelId to trainId",
            "id_to_trainid_19",
            "gta5_lut",
            "colour of each labelId",
            "colour of each trainId",
        )
    } <= checked


@pytest.mark.parametrize(
    ("name", "key", "change", "check"),
    [
        ("similarity_loss.npz", "loss", 1e-4, {"similarity loss"}),
        ("similarity_loss.npz", "grad_syn", 1e-4, {"grad_syn"}),
        ("task_ce.npz", "grad", 1e-4, {"gradient"}),
        ("task_ce.npz", "loss", 1e-4, {"task loss"}),
        ("miou.npz", "confusion", 1, {"confusion"}),
        ("miou.npz", "iou", 1e-4, {"IoU of each class"}),
        ("mappings.npz", "gta5_lut", 1, {"gta5_lut"}),
        ("ade_palette.npz", "ade_palette", 1, {"ADE20K's colours"}),
    ],
)
def test_a_changed_number_is_noticed(tmp_path, name, key, change, check):
    with np.load(GOLDEN / name) as data:
        arrays = {k: data[k].copy() for k in data.files}
    arrays[key].flat[0] += change
    np.savez(tmp_path / "other.npz", **arrays)
    assert {row.check for row in run_parity(tmp_path) if not row.ok} == check
