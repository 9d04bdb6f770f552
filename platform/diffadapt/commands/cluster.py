"""``diffadapt cluster init``: the files that start clusters, copied out of the package to be filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from diffadapt.core.errors import DataError, StoreError, suggest
from diffadapt.core.functions import shipped
from diffadapt.core.place import write_file, writing

KINDS = {
    "aws": ("aws.yaml", "aws-account.yaml"),
    "gcp": ("gcp.yaml",),
    "azure": ("azure.yaml",),
    "slurm": ("slurm.sh",),
    "kuberay": ("kuberay",),
    "docker": ("docker",),
    "job": ("job.yaml",),
    "monitoring": ("prometheus.yml", "grafana"),
}
ALWAYS = ("README.md", "prices.toml")
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


@dataclass(frozen=True)
class Init:
    """Copy the files that start a cluster into a folder; README.md there says what they are and what stands
    for their placeholders."""

    kind: tuple[str, ...] = ()
    """Which: aws, gcp, azure, slurm, kuberay, docker, job, monitoring; default: all."""
    out: str = "cluster"
    """The folder to write into; a file that is there with other words in it is never replaced."""


def cluster(argv: Sequence[str]) -> int:
    from diffadapt.cli import example

    options = tyro.extras.subcommand_cli_from_dict(
        {"init": Init},
        prog="diffadapt cluster",
        args=list(argv),
        description=f"Clusters.\n\n{example('cluster')}",
    )
    return init(options.kind, options.out)


def init(kinds: Sequence[str], out: str) -> int:
    """Write, and say what was written. DataError for an unknown kind; StoreError, before anything is written,
    where a file of that name holds something else."""
    if unknown := [k for k in kinds if k not in KINDS]:
        raise DataError(
            f"There is no kind of cluster {unknown[0]!r}.{suggest(unknown[0], KINDS)} --kind takes"
            f" {', '.join(KINDS)}."
        )
    files = _files(kinds or tuple(KINDS))
    target = Path(out)
    with writing(out):
        for name, file in files.items():
            place = target / name
            if place.exists() and (not place.is_file() or place.read_bytes() != file.read_bytes()):
                raise StoreError(
                    f"{place} is there already and is not the file that would be written: give another --out."
                )
        for name, file in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(str(target / name), file.read_bytes())
            (target / name).chmod(file.stat().st_mode & 0o777 | (0o111 if file.suffix == ".sh" else 0))
    width = max(map(len, files))
    for name, file in files.items():
        blanks = sorted(set(_PLACEHOLDER.findall(file.read_text(encoding="utf-8"))))
        if name not in ALWAYS:
            print(f"{name:<{width}}  {'fill in ' + ', '.join(blanks) if blanks else 'ready'}")
    print(f"\nWritten into {out}; {target / 'README.md'} says how each is started.")
    if "pyproject.toml" in "".join(f.read_text(encoding="utf-8") for f in files.values()):
        print(
            "The clouds' files and the images copy the project's source to their machines: run them where"
            " pyproject.toml and platform/ are, in a checkout or in the unpacked source distribution."
        )
    return 0


def _files(kinds: Sequence[str]) -> dict[str, Path]:
    """Relative name -> file of the package, those of every kind and what always comes with them."""
    folder = next((f for f in shipped("cluster") if f.is_dir()), None)
    if folder is None:
        raise DataError("This installation lacks the files of clusters: install diffadapt again.")
    result: dict[str, Path] = {}
    for top in (*ALWAYS, *(name for kind in kinds for name in KINDS[kind])):
        found = [folder / top] if (folder / top).is_file() else sorted((folder / top).rglob("*"))
        result |= {f.relative_to(folder).as_posix(): f for f in found if f.is_file()}
    return result
