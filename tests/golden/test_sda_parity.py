"""The reference numbers of SDA, and whether the check itself notices what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from safetensors.numpy import load_file, save_file  # noqa: E402

from diffadapt.core.errors import DataError  # noqa: E402
from diffadapt.parity.check import run_parity  # noqa: E402
from diffadapt.parity.sda_networks import _fit  # noqa: E402

GOLDEN = Path(__file__).parent / "sda"
FILES = sorted(p.name for p in GOLDEN.iterdir() if p.suffix in (".npz", ".safetensors"))


@pytest.fixture(scope="module")
def rows():
    return run_parity(GOLDEN)


def keep(folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copy(GOLDEN / name, folder / name)
    return folder


def one_loop() -> dict[str, np.ndarray]:
    """The arrays of the first of the file's three loops, and of the forward pass."""
    arrays = load_file(GOLDEN / "dda_loop.safetensors")
    return {k: v for k, v in arrays.items() if k.startswith(("dda.", "forward."))}


@pytest.mark.parametrize("name", FILES)
def test_every_check_of_every_file_is_within_its_gate(rows, name):
    own = [row for row in rows if row.file == name]
    assert own
    assert [row for row in own if not row.ok] == []


def test_the_expected_checks_are_there(rows):
    found = {row.check for row in rows}
    wanted = {
        "forward: adm output",
        "forward: adm input gradient",
        "forward: dit output",
        "loop: dit samples of 8 steps",
        "dda: samples of 10 steps",
        "dda_b1: samples of 10 steps",
        "dda_scale0: samples of 10 steps",
        "dda: uint8",
        "r100: log_variance",
        "r250: q_sample",
        "n64_D8: phi",
        "operator_n256_D4: matrix",
        "big: preprocessing",
    }
    assert wanted <= found


def test_the_fitted_settings_are_the_published_ones(rows):
    notes = {row.check: row.note for row in rows}
    assert notes["dda: samples of 10 steps"].startswith("D 4, scale 6, batch norm")
    assert notes["dda_scale0: samples of 10 steps"].startswith("D 4, scale 0, batch norm")


@pytest.mark.parametrize("residue", [1e-9, -1e-9])
def test_a_fitted_scale_of_zero_has_no_sign(residue):
    shape = (1, 1, 4, 4)
    first = SimpleNamespace(gradients=[torch.ones(shape)], samples=[torch.full(shape, residue)])
    wanted = {"x0": torch.zeros(shape), "samples": torch.zeros(1, *shape)}
    _, scale = _fit(lambda factor, scale, steps: first, wanted)
    assert f"{scale:.6g}" == "0"


def test_a_changed_sample_is_noticed(tmp_path):
    keep(tmp_path, "adm_tiny_weights.safetensors")
    arrays = one_loop()
    arrays["dda.samples"] = arrays["dda.samples"].copy()
    arrays["dda.samples"][6, 1, 2, 5, 5] += 1e-3
    save_file(arrays, tmp_path / "dda_loop.safetensors")
    bad = [row.check for row in run_parity(tmp_path) if not row.ok]
    assert bad == ["dda: samples of 10 steps"]


def test_a_changed_weight_is_noticed(tmp_path):
    from safetensors import safe_open

    save_file(one_loop(), tmp_path / "dda_loop.safetensors")
    with safe_open(GOLDEN / "adm_tiny_weights.safetensors", "np") as handle:
        arrays, metadata = {k: handle.get_tensor(k) for k in handle.keys()}, handle.metadata()
    arrays["out.2.bias"] = arrays["out.2.bias"] + np.float16(0.01)
    save_file(arrays, tmp_path / "weights.safetensors", metadata=metadata)
    bad = {row.check for row in run_parity(tmp_path) if not row.ok}
    assert {"forward: adm output", "dda: samples of 10 steps"} <= bad


def test_other_names_batches_and_a_second_network_are_understood(tmp_path):
    """One image, files named otherwise, and a decoy network beside the right one."""
    from safetensors import safe_open

    with safe_open(GOLDEN / "adm_tiny_weights.safetensors", "np") as handle:
        arrays, metadata = {k: handle.get_tensor(k) for k in handle.keys()}, handle.metadata()
    save_file(arrays, tmp_path / "z.safetensors", metadata=metadata)
    save_file(
        {k: v * np.float16(0.5) for k, v in arrays.items()}, tmp_path / "a.safetensors", metadata=metadata
    )
    loop = load_file(GOLDEN / "dda_loop.safetensors")
    own = {k.removeprefix("dda_b1."): v for k, v in loop.items() if k.startswith("dda_b1.")}
    own |= {k: loop[f"dda.{k}"] for k in ("timestep_map", "alphas_cumprod")}
    own |= {
        "x0": loop["dda.x0"][:1],
        "q_noise": loop["dda.q_noise"][:1],
        "step_noise": loop["dda.step_noise"][:, :1],
    }
    save_file(
        {f"other.{k}": np.ascontiguousarray(v) for k, v in own.items()}, tmp_path / "dda_loop_b.safetensors"
    )
    rows = run_parity(tmp_path)
    assert all(row.ok for row in rows)
    assert any(row.check == "other: samples of 10 steps" and "z.safetensors" in row.note for row in rows)


def test_what_is_not_known_is_said(tmp_path):
    np.savez(tmp_path / "strange.npz", a=np.zeros(3))
    (tmp_path / "torn.safetensors").write_bytes(b"123")
    (tmp_path / "README.md").write_text("numbers")
    rows = {row.file: row for row in run_parity(tmp_path)}
    assert (rows["strange.npz"].check, rows["strange.npz"].ok) == ("unknown", False)
    assert (rows["torn.safetensors"].check, rows["torn.safetensors"].ok) == ("readable", False)
    assert rows["README.md"].ok


def test_a_loop_without_weights_is_not_ok(tmp_path):
    rows = run_parity(keep(tmp_path, "dda_loop.safetensors"))
    assert any(not row.ok and "no weights file" in row.note for row in rows)


def test_a_missing_or_empty_folder_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        run_parity(tmp_path / "none")
    with pytest.raises(DataError, match="empty"):
        run_parity(tmp_path)
