"""``diffadapt doctor``: is this installation sound? With ``--parity`` also: does it compute the reference's
numbers?"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import DataError, DiffadaptError
from diffadapt.core.redact import redact
from diffadapt.core.versions import RAY, pythons, rays, spoken


@dataclass(frozen=True)
class DoctorOptions(RootOption):
    parity: str | None = None
    """A folder of reference numbers: every file's largest deviation is printed, and the command fails above
    the gate."""


def doctor(argv: Sequence[str]) -> int:
    options = parse(DoctorOptions, argv, "doctor")
    if options.parity:
        return _parity(options.parity)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python), ("libraries", _libraries), ("ray", _ray), ("platform", _platform),
        ("device", _device), ("embedded weights", _weights), ("store", lambda: _store(options)),
        ("memory", _memory), ("cluster token", _token),
    ]  # fmt: skip
    bad = 0
    for name, check in checks:
        try:
            print(f"ok    {name:<18} {check()}")
        except UserWarning as warning:
            print(f"warn  {name:<18} {warning}")
        except (DiffadaptError, ImportError, OSError) as error:
            bad += 1
            print(f"FAIL  {name:<18} {redact(str(error))}")
    return 1 if bad else 0


def _parity(folder: str) -> int:
    if not os.path.isdir(folder):
        raise DataError(f"There is no folder {folder!r} with reference numbers.")
    from diffadapt.parity.check import run_parity

    rows = run_parity(folder)
    if not rows:
        raise DataError(f"The folder {folder!r} holds no reference numbers (.npz or .safetensors files).")
    for row in rows:
        print(
            f"{'ok  ' if row.ok else 'FAIL'}  {row.file:<32} {row.check:<40} {row.max_deviation:10.2e}  gate"
            f" {row.gate:.0e}  {row.note}"
        )
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.file] = max(worst.get(row.file, 0.0), row.max_deviation / row.gate)
    print(f"\n{len(rows)} checks in {len(worst)} files, {sum(not r.ok for r in rows)} above their gate")
    return 0 if all(r.ok for r in rows) else 1


def _python() -> str:
    version = platform.python_version()
    if not (wanted := pythons()).contains(version, prereleases=True):
        raise DataError(
            f"Python {version} is not supported: make an environment with one that is {spoken(wanted)}"
            " (in the checkout: `make PYTHON=python3.13 setup`)."
        )
    return version


def _ray() -> str:
    """Its version, and what of it is missing that runs can do without."""
    version = metadata.version("ray")
    if not (wanted := rays()).contains(version, prereleases=True):
        raise DataError(
            f"Ray {version} is not among the versions that were tried: `pip install '{RAY}{spoken(wanted)}'`."
        )
    from diffadapt.orchestrate.internals import missing

    if lost := missing():
        raise UserWarning(f"{version}; without what this version has otherwise: {'; '.join(lost)}")
    return version


def _libraries() -> str:
    from diffadapt.core.manifest import LIBRARIES

    result = {}
    for name in LIBRARIES:
        result[name] = metadata.version(name)
    for module in ("torch", "torchvision", "timm", "diffusers"):
        importlib.import_module(module)
    return " ".join(f"{k} {v}" for k, v in result.items())


def _platform() -> str:
    if not hasattr(platform, "machine"):
        raise ImportError(
            "the standard library's `platform` module is shadowed by a folder with an __init__.py: remove"
            " that file"
        )
    return f"{platform.system()} {platform.machine()}"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"no CUDA device; {os.cpu_count()} CPU cores"


def _weights() -> str:
    from diffadapt.models.weights import ASSETS, revision

    names = sorted(p.name for p in ASSETS.iterdir() if p.is_dir())
    return ", ".join(f"{n} {revision('embedded:' + n)}" for n in names)


def _store(options: DoctorOptions) -> str:
    root = options.open()
    existed = root.store.exists("store.json")
    if existed:
        root.store.prepare()
        return f"{redact(root.location)}: {len(root.names())} runs"
    where = root.location if root.store.local else tempfile.gettempdir()
    while not os.path.isdir(where):
        where = os.path.dirname(os.path.abspath(where))
    if not os.access(where, os.W_OK):
        raise DataError(f"{where} cannot be written: give another --root.")
    return f"{redact(root.location)}: not made yet, {where} can be written"


def _memory() -> str:
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{pages:.0f} GB memory, {free:.0f} GB free on the temporary disk"


def _token() -> str:
    """Raises UserWarning where others than its owner can read or replace the token."""
    from diffadapt.orchestrate.jobs import token_file

    file = token_file()
    if not file.exists():
        return "none on this machine"
    open_file, open_folder = file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o022
    if not open_file and not open_folder:
        return f"{file} is its owner's alone"
    what = "read" if open_file else "replaced"
    raise UserWarning(
        f"{file} can be {what} by other users of this machine, who could then run code on the cluster:"
        f" chmod 700 {shlex.quote(str(file.parent))} && chmod 600 {shlex.quote(str(file))}, and make a new"
        " token if others have been here."
    )
