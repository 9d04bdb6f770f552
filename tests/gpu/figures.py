"""``python -m tests.gpu.figures [--minutes 15] [--out figures]``: every figure of ``make bench`` that needs a
device, then the tests of this folder, on a machine without Ray.

Each part is a process of its own with what is left of the time, so that one that fails or hangs costs no
other; what is finished is in ``--out`` at once (a JSON and the text of each part, and ``summary.json``).
``--device cpu --size tiny`` runs the same in small anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("accuracy", ("accuracy",), 0.15),
    ("training", ("training",), 0.15),
    ("alignment-fp16", ("alignment", "--precision", "fp16"), 0.3),
    ("alignment-bf16", ("alignment", "--precision", "bf16"), 0.3),
    ("synthesis-fp16", ("synthesis", "--precision", "fp16"), 0.3),
    ("synthesis-bf16", ("synthesis", "--precision", "bf16"), 0.3),
    ("transfer-bf16", ("transfer", "--precision", "bf16"), 0.2),
)
"""(name, words of ``python -m tests.bench``, the most of all time that it may take)."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.figures", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="for all of it")
    parser.add_argument("--out", default="figures", help="folder of what is found")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", default="auto", help="as of tests.bench")
    parser.add_argument("--only", nargs="*", help=f"of {', '.join(name for name, _, _ in PARTS)}, tests")
    options = parser.parse_args(argv)
    out, until = Path(options.out), time.monotonic() + 60 * options.minutes
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, dict] = {}
    for name, words, share in PARTS:
        if options.only and name not in options.only:
            continue
        file = out / f"{name}.json"
        file.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "tests.bench", *words, "--device", options.device, "--size", options.size,
            "--json", str(file),
        ]  # fmt: skip
        summary[name] = carried_out(command, out / f"{name}.txt", until, share * 60 * options.minutes)
        if file.exists():
            summary[name]["missed"] = [
                m["name"]
                for report in json.loads(file.read_text())["benchmarks"].values()
                for m in report["metrics"]
                if m["reached"] is False
            ]
        told(out, summary)
    if not options.only or "tests" in options.only:
        command = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-p", "no:cacheprovider"]
        summary["tests"] = carried_out(command, out / "tests.txt", until, 60 * options.minutes)
        told(out, summary)
    return int(any(part["ended"] != "well" for part in summary.values()))


def carried_out(command: list[str], log: Path, until: float, most: float) -> dict:
    """How ``command`` ended ('well', 'badly', 'out of time', 'not begun') and the seconds it took; what it
    says goes to ``log``."""
    left = min(most, until - time.monotonic())
    if left < 5:
        return {"ended": "not begun", "seconds": 0.0}
    began = time.monotonic()
    with log.open("w") as handle:
        try:
            done = subprocess.run(
                command, stdout=handle, stderr=subprocess.STDOUT, timeout=left,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
            ended = "badly" if done.returncode else "well"
        except subprocess.TimeoutExpired:
            ended = "out of time"
    return {"ended": ended, "seconds": round(time.monotonic() - began, 1)}


def told(out: Path, summary: dict[str, dict]) -> None:
    """Write what is known, and say the last of it."""
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    name, part = list(summary.items())[-1]
    missed = f"; targets missed: {', '.join(part['missed'])}" if part.get("missed") else ""
    print(f"{name}: {part['ended']}, {part['seconds']:g} s{missed}", flush=True)
    print((out / f"{name}.txt").read_text() if (out / f"{name}.txt").exists() else "", flush=True)


if __name__ == "__main__":
    sys.exit(main())
