"""The reference numbers of Adapt Anything's parts, and whether the checks notice what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.parity.check import run_parity  # noqa: E402

GOLDEN = Path(__file__).parent / "aa"
FILES = sorted(p.name for p in GOLDEN.glob("*.npz"))


@pytest.fixture(scope="module")
def rows():
    return run_parity(GOLDEN)


@pytest.mark.parametrize("name", FILES)
def test_every_check_of_every_file_is_within_its_gate(rows, name):
    own = [row for row in rows if row.file == name]
    assert own
    assert [row for row in own if not row.ok] == []
    assert any(row.max_deviation <= row.gate for row in own), "a file of which nothing is compared"


def test_all_files_are_there():
    trainings = {"traj_dann", "traj_cdan", "traj_mcc", "traj_mcd", "traj_fixmatch"}
    losses = {
        "dann",
        "cdan",
        "mcd",
        "mcc",
        "symnets",
        "cdtrans",
        "fixmatch",
        "flex_free_softmatch",
        "mixmatch",
        "ema",
        "sdat_sam",
    }
    batch_norm = {
        f"bn_{n}"
        for n in (
            "source_only",
            "dann",
            "cdan",
            "mcd",
            "mcc",
            "symnets",
            "cdtrans_pretrain",
            "cdtrans_pairs",
            "cdan_mcc_sdat",
            "mixmatch",
        )
    }
    assert {n.removesuffix(".npz") for n in FILES} == trainings | losses | batch_norm | {
        "schedules",
        "validators",
    }


def test_every_method_of_stage_1_has_numbers_of_a_network_with_batch_norm():
    from diffadapt.methods.uda.config import METHODS

    kept = set()
    for name in FILES:
        with np.load(GOLDEN / name) as data:
            running = [k for k in data.files if k.startswith("out_state.") and k.endswith("running_var")]
            kept |= {str(data["in_method"])} if "in_method" in data.files and running else set()
    assert kept >= set(METHODS)


def test_gates_are_those_of_the_precision(rows):
    """1e-9 in float64 and 1e-5 in float32, and integers exactly; nothing is looser."""
    loose = [row for row in rows if row.gate > 1e-5 and row.gate != 0.5 and not row.file.endswith(".md")]
    assert loose == []
    exact = {row.file for row in rows if row.gate == 1e-9}
    assert exact >= {
        f"{n}.npz"
        for n in (
            "dann",
            "cdan",
            "mcd",
            "mcc",
            "symnets",
            "cdtrans",
            "sdat_sam",
            "schedules",
            "traj_dann",
            "traj_cdan",
            "traj_mcc",
            "traj_mcd",
            "bn_symnets",
            "bn_mcd",
            "bn_cdtrans_pairs",
            "bn_mixmatch",
        )
    }


def test_variants_that_are_not_followed_are_said(rows):
    said = {(row.file, row.check): row.note for row in rows if row.note.startswith("not followed")}
    assert "Transfer-Learning-Library's" in said["cdan.npz", "the authors' discriminator and entropy weights"]
    assert "authors'" in said["symnets.npz", "pytorch-adapt's category loss"]
    assert ("mcd.npz", "the authors' entropy") in said


def damaged(folder: Path, name: str, key: str, change: float) -> list[str]:
    """The checks that fail when the first number of one array is changed; the file gets another name."""
    with np.load(GOLDEN / name) as data:
        arrays = {k: data[k] for k in data.files}
    arrays[key] = arrays[key].copy()
    arrays[key].flat[0] += change
    np.savez(folder / "other.npz", **arrays)
    return [row.check for row in run_parity(folder) if not row.ok]


@pytest.mark.parametrize(
    ("name", "key", "check"),
    [
        ("dann.npz", "out_gdisc_it500.3.weight", "gradient disc_it500.3.weight"),
        ("cdan.npz", "out_gft_entropy", "gradient ft entropy"),
        ("mcd.npz", "out_loss_stepB", "loss stepB"),
        ("mcc.npz", "out_grad", "gradient, temperature 1"),
        ("symnets.npz", "out_step_net.2.bias", "one update: head.bias"),
        ("sdat_sam.npz", "out_perturbed1_weight", "perturbed1_weight"),
        ("traj_mcd.npz", "out_F2.head.6.running_var", "4 steps: head2.6.running_var"),
        ("traj_dann.npz", "out_disc.6.0.weight", "4 steps: discriminator.6.weight"),
        ("schedules.npz", "tllib_lr_backbone_head", "tllib_lr_backbone_head"),
        ("bn_symnets.npz", "out_state.backbone.bn.running_mean", "3 steps: backbone.bn.running_mean"),
        ("bn_symnets.npz", "out_grad.backbone.conv.weight", "gradient backbone.conv.weight"),
        ("bn_cdtrans_pairs.npz", "out_state.head.0.running_mean", "3 steps: head.0.running_mean"),
        ("bn_mixmatch.npz", "out_state.backbone.bn.running_var", "one step: backbone.bn.running_var"),
    ],
)
def test_a_changed_number_is_noticed(tmp_path, name, key, check):
    assert damaged(tmp_path, name, key, 1e-7) == [
        check
    ]  # within the gate of float32, outside that of float64


def test_another_start_is_noticed_in_all_weights(tmp_path):
    bad = damaged(tmp_path, "traj_mcc.npz", "in_clf.head.weight", 1e-3)
    assert {
        "4 steps: head.weight",
        "4 steps: backbone.l.weight",
        "4 steps: bottleneck.1.running_mean",
    } <= set(bad)
