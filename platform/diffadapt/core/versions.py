"""The Pythons and the versions of Ray that this package runs on, as its own metadata (pyproject.toml) states
them."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

RAY = "ray[default,data,train,tune]"
"""What an installation of Ray must bring."""


def pythons() -> SpecifierSet:
    """Empty, so that it allows all, where the package is imported without having been installed."""
    try:
        return SpecifierSet(metadata.metadata("diffadapt")["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        return SpecifierSet()


def rays() -> SpecifierSet:
    """Empty, so that it allows all, where the package is imported without having been installed."""
    try:
        wanted = map(Requirement, metadata.requires("diffadapt") or ())
    except metadata.PackageNotFoundError:
        return SpecifierSet()
    return next((r.specifier for r in wanted if r.name == "ray" and r.marker is None), SpecifierSet())


def spoken(versions: SpecifierSet) -> str:
    """ ">=3.10,<3.15" whatever the order it was stated in."""
    return ",".join(sorted(map(str, versions), key=lambda s: s.lstrip("=~"), reverse=True))
