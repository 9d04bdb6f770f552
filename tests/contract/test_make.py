"""`make test` and .ci/run see a user's environment: what only CI and containers set reaches pip, no test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = (
    "CI", "BUILD_NUMBER", "DEBIAN_FRONTEND", "IS_SANDBOX", "RUST_BACKTRACE",
    "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
    "PIP_FIND_LINKS", "PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "PIP_DISABLE_PIP_VERSION_CHECK",
    "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "NIX_SSL_CERT_FILE", "HTTPLIB2_CA_CERTS", "NODE_EXTRA_CA_CERTS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GIT_SSL_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)  # fmt: skip
USERS = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NVPL_BLAS_DEBUG_CPU_TYPE", "CUDA_VISIBLE_DEVICES", "HF_HOME",
    "LANG", "LD_LIBRARY_PATH", "HTTPS_PROXY", "PYENV_ROOT",
)  # fmt: skip
TARGETS = ("test", "test-slow", "test-gpu", "test-cluster")
TESTS = [["bash", ".ci/run"], *(["make", target] for target in TARGETS)]


class Recorder:
    """A stand-in for the interpreter of .venv that only notes its words and its environment."""

    def __init__(self, folder: Path):
        self.bin, self.stamp, self.noted = folder / "bin", folder / "installed", folder / "noted"
        self.bin.mkdir()
        script = self.bin / "python"
        script.write_text(f'#!/bin/sh\n{{ printf "%s " "$@"; printf "\\0"; env -0; }} > "{self.noted}"\n')
        script.chmod(0o755)
        for linter in ("ruff", "pyright"):  # .ci/run starts with them; they are content here
            (self.bin / linter).write_text("#!/bin/sh\n")
            (self.bin / linter).chmod(0o755)

    def run(self, command: list[str]) -> tuple[str, dict[str, str]]:
        """The words after ``python`` and their environment, when every variable above is set."""
        settings = f"BIN={self.bin} STAMP={self.stamp} PYTHON={sys.executable}"
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "MAKEFLAGS": f" -- {settings}"}
        environment |= dict.fromkeys((*FOREIGN, *USERS), "1")
        environment |= {"LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/nonexistent"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        words, *variables = self.noted.read_text().rstrip("\0").split("\0")
        return words.strip(), dict(v.split("=", 1) for v in variables)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    if not shutil.which("make"):
        pytest.skip("there is no make")
    return Recorder(tmp_path)


@pytest.mark.parametrize("command", TESTS, ids=" ".join)
def test_tests_run_in_a_users_environment(recorder: Recorder, command: list[str]) -> None:
    recorder.stamp.touch()
    words, environment = recorder.run(command)
    assert words.startswith("-m pytest ")
    assert [v for v in FOREIGN if v in environment] == []
    assert [v for v in USERS if v not in environment] == []
    wanted = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    assert {k: environment.get(k) for k in wanted} == wanted


def test_pip_keeps_its_settings(recorder: Recorder) -> None:
    words, environment = recorder.run(["make", "setup"])
    assert words.startswith("-m pip install ")
    assert [v for v in (*FOREIGN, *USERS) if v not in environment] == []


def requirements(text: str) -> list[Requirement]:
    """Those of a file of pins: every line but comments is one."""
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_python_installs_the_pins(recorder: Recorder, python: str) -> None:
    """The oldest one too, with versions of its own where it needs them; no place to get them is named."""
    words, _ = recorder.run(["make", "setup"])
    assert "-c constraints.txt" in words
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and not [line for line in text.splitlines() if line.startswith("-")]
    found: dict[str, list[str]] = {}
    for pin in requirements(text):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (version,) = pin.specifier
            assert version.operator == "=="
            found.setdefault(canonicalize_name(pin.name), []).append(version.version)
    assert [name for name, versions in found.items() if len(versions) != 1] == []
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^  "([^"]+)",$', project.partition("dependencies = [")[2].partition("\n]")[0], re.M)
    for extra in ("dev", "docs", "serve"):
        words = json.loads("[" + re.search(rf"^{extra} = \[(.*)\]$", project, re.M)[1] + "]")
        listed += [word for word in words if not word.startswith("diffadapt[")]
    assert "diffadapt[docs,serve]" in project
    for wanted in map(Requirement, listed):
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
            (version,) = found[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(version), wanted


def test_no_other_recipe_starts_pytest() -> None:
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]
    assert [line for line in recipes if "pytest" in line.replace(".pytest_cache", "")] == []
    assert len([line for line in recipes if "$(PYTEST)" in line]) == len(TARGETS)


@pytest.mark.skipif("MAKELEVEL" not in os.environ, reason="not started by make")
def test_this_process_was_started_without_them() -> None:
    assert [v for v in FOREIGN if v in os.environ] == []
