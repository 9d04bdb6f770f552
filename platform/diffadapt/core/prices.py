"""What machines cost: instance types of the clouds from ``cluster/prices.toml``."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffadapt.core.devices import device
from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.functions import shipped
from diffadapt.core.toml_text import parse_toml

CLOUDS = ("aws", "gcp", "azure")


@dataclass(frozen=True)
class Instance:
    """One instance type. ``gpu``: words of the device's own name ('A100 40GB'), empty without one; prices in
    USD per hour of the whole instance (0: not known), ``spot`` None where none is listed; ``date``: when they
    were read."""

    name: str
    gpu: str
    gpus: int
    vcpus: int
    on_demand: float
    spot: float | None
    region: str
    date: str
    source: str

    def devices(self, threads: int = 1) -> int:
        """GPUs, or worker processes of ``threads`` threads where there is none."""
        return self.gpus or max(1, self.vcpus // max(1, threads))

    @property
    def device(self) -> str:
        return self.gpu or "cpu"


def find(name: str, place: str = "") -> Instance:
    """The instance type ``name`` ('aws.g5.xlarge') of the price list, or devices alone ('8xH100', 'L4') at
    the lowest price that the list has for one; RecipeError with the nearest name otherwise."""
    known = load(place)
    if name not in known:
        if bare := _devices(name, known):
            return bare
        near = suggest(name, known) or suggest(name, {n.partition(".")[2] for n in known})
        raise RecipeError(
            f"The price list has no machine {name!r}.{near} Known are: {', '.join(known)}, and devices such"
            " as 8xH100; --prices gives a list of your own."
        )
    return known[name]


def _devices(name: str, known: dict[str, Instance]) -> Instance | None:
    """``name`` as a number of devices of the table (core/devices.toml); without a price where the list has no
    machine with them."""
    match = re.fullmatch(r"(?:(\d{1,5})\s*x\s*)?([A-Za-z][\w ]*)", name.strip())
    found = device(match[2]) if match and match[2].lower() != "cpu" else None
    if match is None or found is None or not int(match[1] or 1):
        return None
    count = int(match[1] or 1)
    offers = [m for m in known.values() if m.gpu and device(m.gpu) == found]
    cheapest = min(offers, key=lambda m: m.on_demand / m.gpus, default=None)
    if cheapest is None:
        return Instance(name, found.name, count, 8 * count, 0.0, None, "", "", "")
    part = count / cheapest.gpus
    return Instance(
        name, found.name, count, 8 * count, cheapest.on_demand * part,
        cheapest.spot and cheapest.spot * part, cheapest.region, cheapest.date,
        f"{cheapest.name} by the device, {cheapest.source}",
    )  # fmt: skip


def load(place: str = "") -> dict[str, Instance]:
    """Every instance type by name; ``place``: a file of one's own. RecipeError when it cannot be read or says
    something else."""
    file = Path(place) if place else default_file()
    try:
        value = parse_toml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(
            f"The price list {file} cannot be read ({type(error).__name__}): mend the path."
        ) from None
    except ValueError as error:
        raise RecipeError(f"The price list {file} is no TOML ({error}): mend it.") from None
    about = value.pop("about", {})
    result = {}
    for cloud, machines in value.items():
        for kind, fields in machines.items() if isinstance(machines, dict) else ():
            name = f"{cloud}.{kind}"
            result[name] = _instance(name, {**about, **fields} if isinstance(fields, dict) else {}, file)
    if not result:
        raise RecipeError(f"The price list {file} names no machine: see cluster/prices.toml for the form.")
    return result


def default_file() -> Path:
    """The checkout's price list, else the one installed with the package."""
    files = [folder / "prices.toml" for folder in shipped("cluster")]
    return next((f for f in files if f.is_file()), files[-1])


def _instance(name: str, fields: dict[str, Any], file: Path) -> Instance:
    try:
        gpus, vcpus = fields["gpus"], fields["vcpus"]
        on_demand, spot = float(fields["on_demand"]), float(fields["spot"]) if "spot" in fields else None
        date = (
            fields["date"].isoformat() if isinstance(fields["date"], datetime.date) else str(fields["date"])
        )
        good = (
            isinstance(gpus, int)
            and isinstance(vcpus, int)
            and gpus >= 0
            and vcpus >= 1
            and on_demand > 0
            and (spot is None or spot > 0)
        )
        if not good or bool(gpus) != bool(fields.get("gpu", "")):
            raise ValueError
        return Instance(
            name,
            str(fields.get("gpu", "")),
            gpus,
            vcpus,
            on_demand,
            spot,
            str(fields.get("region", "")),
            date,
            str(fields.get("source", "")),
        )
    except (KeyError, TypeError, ValueError):
        raise RecipeError(
            f"The entry {name} of the price list {file} is not whole: it needs gpu, gpus, vcpus, on_demand"
            " (USD per hour) and date; spot, region and source may follow."
        ) from None
