"""The reference numbers of ZoDi's transfer, and whether the checks notice what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffadapt.diffusion.translation import inversion
from diffadapt.parity.check import NumberFile, run_parity
from diffadapt.parity.zodi_transfer import checks

GOLDEN = Path(__file__).parent / "zodi"
NAME = "stochastic_inversion.npz"


def rows_of(path: Path):
    return list(checks(NumberFile(path, path.name), []))


def test_every_strength_is_encoded_and_decoded_within_the_gate():
    rows = rows_of(GOLDEN / NAME)
    assert [row for row in rows if not row.ok] == []
    assert {row.gate for row in rows} == {1e-5, 0.5}
    for strength in ("s60", "s65", "s90"):
        for what in (
            "encoding",
            "first step",
            "first step, clean",
            "decoding, guidance 9",
            "decoding, guidance 1",
        ):
            for precision in ("float32", "float64"):
                assert f"{strength}: {what} ({precision})" in {row.check for row in rows}


def test_the_conditioning_map_is_resized_as_the_authors_do():
    (row,) = rows_of(GOLDEN / "mappings.npz")
    assert row.check.startswith("conditioning map") and row.max_deviation == 0 and row.ok


@pytest.mark.parametrize(
    "key",
    [
        "alphas_cumprod",
        "ddim_sigmas",
        "s60_z_enc",
        "s65_step0_x_prev",
        "s65_step0_pred_x0",
        "s90_decoded_cfg9",
        "s60_decoded_cfg1",
        "s90_t_enc",
    ],
)
def test_another_number_is_noticed_in_a_file_of_any_name(tmp_path, key):
    with np.load(GOLDEN / NAME) as data:
        arrays = {k: data[k].copy() for k in data.files}
    arrays[key].flat[0] += 1 if arrays[key].dtype.kind == "i" else 0.01
    np.savez(tmp_path / "other.npz", **arrays)
    assert [row.check for row in run_parity(tmp_path) if not row.ok]


def test_stepping_to_a_clean_image_at_the_end_is_noticed(monkeypatch):
    """The authors' last step goes to abar_0, not to 1: the difference is small, and above the gate."""
    own = inversion.previous_levels
    monkeypatch.setattr(
        inversion, "previous_levels", lambda timesteps, abar: [*own(timesteps, abar)[:-1], 1.0]
    )
    wrong = [row for row in rows_of(GOLDEN / NAME) if not row.ok]
    assert {row.check.partition(",")[0].rpartition(": ")[2] for row in wrong} == {"decoding"}
