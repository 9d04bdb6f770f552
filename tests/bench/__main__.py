"""``python -m tests.bench [names] [--size SIZE] [--device DEVICE] [--precision P] [--weights ADM] [--json
FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

from diffadapt.core.errors import suggest  # noqa: E402
from tests.bench.metric import Report  # noqa: E402
from tests.bench.networks import SIZES, Size  # noqa: E402

NAMES = ("synthesis", "alignment", "transfer", "training", "accuracy", "runners", "storage", "host")
ASKED = ("projection", "ui")
"""Those that take long and run only when they are named."""


def benchmark(
    name: str, size: Size, device: torch.device, precision: str, weights: str | None = None
) -> Report:
    """Run one benchmark."""
    if name in ("synthesis", "alignment"):
        from tests.bench import generation

        return getattr(generation, name)(size, device, precision)
    if name == "transfer":
        from tests.bench.transfer import transfer

        return transfer(size, device, precision)
    if name == "training":
        from tests.bench.training import training

        return training(size, device)
    if name == "accuracy":
        from tests.bench.accuracy import accuracy

        return accuracy(size, device, weights)
    if name == "projection":
        from tests.bench.projection import FULL, SMOKE, projection

        return projection(SMOKE if size.name == "tiny" else FULL)
    if name == "ui":
        from tests.bench.page import page

        return page(size)
    if name == "runners":
        from tests.bench.runners import runners

        return runners(size)
    if name == "host":
        from tests.bench.host import host

        return host(size)
    from tests.bench.storage import storage

    return storage(size)


def machine(device: torch.device) -> dict[str, str | int]:
    """What the numbers were measured on."""
    found: dict[str, str | int] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.1f}"
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Benchmarks of diffadapt; they never fail on a slow machine.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"which of {', '.join((*NAMES, *ASKED))}; default: all but {', '.join(ASKED)}",
    )
    parser.add_argument(
        "--size", choices=["auto", *SIZES], default="auto", help="auto: published on CUDA, small elsewhere"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "tf32", "bf16", "fp16"],
        help="of our setting; auto: fp16 on CUDA, fp32 elsewhere",
    )
    parser.add_argument("--weights", help="an ADM folder for the accuracy gate, in place of random weights")
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in (*NAMES, *ASKED):
            parser.error(
                f"there is no benchmark {name!r}.{suggest(name, (*NAMES, *ASKED))} Known are:"
                f" {', '.join((*NAMES, *ASKED))}"
            )
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    size = SIZES[
        ("published" if device.type == "cuda" else "small") if options.size == "auto" else options.size
    ]
    precision = (
        ("fp16" if device.type == "cuda" else "fp32") if options.precision == "auto" else options.precision
    )
    where = machine(device)
    print("  ".join(f"{k} {v}" for k, v in where.items()), flush=True)
    results: dict[str, dict] = {}
    for name in options.names or NAMES:
        report = benchmark(name, size, device, precision, options.weights)
        print("\n" + report.text(), flush=True)
        results[name] = {
            "title": report.title, "conditions": list(report.conditions),
            "metrics": [{**dataclasses.asdict(m), "reached": m.reached} for m in report.metrics],
        }  # fmt: skip
        if options.json:  # after each one: a later failure costs no finished numbers
            with open(options.json, "w", encoding="utf-8") as handle:
                json.dump(
                    {"machine": where, "size": size.name, "precision": precision, "benchmarks": results},
                    handle,
                    indent=1,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
