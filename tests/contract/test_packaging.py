"""What the package says of itself is said in one place, and what it needs outside a checkout is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from diffadapt import cli
from diffadapt.commands import cluster, doctor
from diffadapt.core import functions
from diffadapt.core.errors import DataError, DiffadaptError
from diffadapt.core.toml_text import parse_toml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = parse_toml((ROOT / "pyproject.toml").read_text())
PYTHONS = SpecifierSet(PROJECT["project"]["requires-python"])
MINORS = [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}.1" in PYTHONS]


def requirement(name: str, listed: list[str]) -> Requirement:
    return next(r for r in map(Requirement, listed) if r.name == name)


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("no git checkout")
    return set(listed.stdout.splitlines())


def test_pythons_are_those_of_the_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MINORS == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    words = [c.rpartition(" :: ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    assert words == MINORS
    monkeypatch.setattr(doctor, "pythons", lambda: PYTHONS)
    for version, good in [*((f"{minor}.5", True) for minor in MINORS), ("3.9.2", False), ("3.15.0", False)]:
        monkeypatch.setattr(doctor.platform, "python_version", lambda version=version: version)
        if good:
            assert doctor._python() == version
        else:
            with pytest.raises(DataError, match=r"Python 3.*with one that is >=3\.10,<3\.15 .*make PYTHON="):
                doctor._python()


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ("sys.version_info = (3, 9, 2, 'final', 0)", r"3.10 to 3.14 is .* this is 3.9: .*make PYTHON=p"),
        ("sys.version_info = (3, 15, 0, 'final', 0)", r"3.10 to 3.14 .* this is 3.15: .*make PYTHON=p"),
        ("sys.modules['ensurepip'] = None", r"no module ensurepip.*`apt install python3-venv`"),
        ("sys.version_info = (3, 14, 0, 'final', 0)", r"^$"),
        ("", r"There is no nopython: .*`apt install python3 python3-venv`.*make PYTHON="),
    ],
)  # fmt: skip
def test_make_says_what_a_python_lacks(tmp_path: Path, lie: str, sentence: str) -> None:
    if not shutil.which("make"):
        pytest.skip("there is no make")
    python, nothing = tmp_path / "python", tmp_path / "bin" / "python"
    nothing.parent.mkdir()
    nothing.write_text("#!/bin/sh\n")
    told = f"import sys; {lie}; exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{told}" "$2"\n')
    for file in (python, nothing):
        file.chmod(0o755)
    settings = [f"PYTHON={python if lie else 'nopython'}", f"BIN={nothing.parent}", f"STAMP={tmp_path}/stamp"]
    done = subprocess.run(["make", *settings, "setup"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("make"))
    assert re.search(sentence, said) and "Traceback" not in said, said
    assert (done.returncode == 0) == (sentence == "^$")
    if done.returncode == 0:
        assert re.search(r"downloads about \d.*GB.*minutes", done.stdout) and "--quiet" not in done.stdout


def test_ray_is_a_range_and_its_pin_in_it() -> None:
    wanted = requirement("ray", PROJECT["project"]["dependencies"])
    assert sorted(s.operator for s in wanted.specifier) == ["<", ">="]
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert len(pins) == 1 and wanted.specifier.contains(pins[0].removeprefix("ray=="))
    assert Requirement(doctor.RAY).extras == wanted.extras


def test_what_a_wheel_needs_is_packed() -> None:
    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"pipelines", "tune_spaces", "cluster"} <= set(packed)
    assert all(place == f"diffadapt/_{name}" and (ROOT / name).is_dir() for name, place in packed.items())
    assert "platform/diffadapt/py.typed" in tracked("platform/diffadapt/py.typed")


def test_only_a_checkout_looks_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`pip install --target libs` beside a folder called pipelines is none."""
    monkeypatch.setattr(functions, "__file__", str(tmp_path / "libs" / "diffadapt" / "core" / "functions.py"))
    assert functions.shipped("pipelines") == [tmp_path / "libs" / "diffadapt" / "_pipelines"]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """platform/index_page.py, which is imported where hatchling is."""
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    interface = types.ModuleType("interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    spec = spec_from_file_location("index_page", ROOT / "platform" / "index_page.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_page_has_no_relative_link(page: Any) -> None:
    assert PROJECT["project"]["dynamic"] == ["readme"] and PROJECT["project"]["urls"]
    text = "[ADR 1](platform/a.md), [`LICENSE`](LICENSE), [x](https://a.b), [y](#z) ![pic](platform/p.png)"
    assert page.absolute(text, "") == "ADR 1 (`platform/a.md`), `LICENSE`, [x](https://a.b), [y](#z) pic"
    assert page.absolute(text, "https://h/r") == (
        "[ADR 1](https://h/r/blob/HEAD/platform/a.md), [`LICENSE`](https://h/r/blob/HEAD/LICENSE),"
        " [x](https://a.b), [y](#z) ![pic](https://h/r/raw/HEAD/platform/p.png)"
    )
    readme = page.absolute((ROOT / "README.md").read_text(), "")
    assert (
        re.findall(r"\]\((?!https?:|#|mailto:)[^)]*\)", re.sub(r"(?s)```.*?```|`[^`\n]*`", "", readme)) == []
    )


def test_cluster_init_has_every_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "there" / "cluster"
    assert cli.main(["cluster", "init", "--out", str(out)]) == 0
    written = {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}
    assert {f"cluster/{f}" for f in written} == tracked("cluster")
    assert (out / "slurm.sh").stat().st_mode & 0o111 and not (out / "aws.yaml").stat().st_mode & 0o111
    said = capsys.readouterr().out
    assert re.search(r"^aws\.yaml +fill in <AMI>, <BUCKET>, <REGION>$", said, re.MULTILINE)
    assert cli.main(["cluster", "init", "--out", str(out)]) == 0, "the same again is fine"


def test_cluster_init_takes_kinds_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert cli.main(["cluster", "init", "--kind", "slurm", "kuberay", "--out", str(out)]) == 0
    assert {f.name for f in out.iterdir()} == {"README.md", "prices.toml", "slurm.sh", "kuberay"}
    (out / "slurm.sh").write_text("mine")
    (out / "README.md").unlink()
    assert cli.main(["cluster", "init", "--kind", "slurm", "--out", str(out)]) == 2
    assert (out / "slurm.sh").read_text() == "mine" and not (out / "README.md").exists()
    assert "slurm.sh is there already" in capsys.readouterr().err
    with pytest.raises(DiffadaptError, match="no kind of cluster 'slrum'.*slurm"):
        cluster.init(["slrum"], str(out))
    monkeypatch.setattr(cluster, "shipped", lambda name: [tmp_path / f"_{name}"])
    with pytest.raises(DiffadaptError, match="install diffadapt again"):
        cluster.init([], str(out))
