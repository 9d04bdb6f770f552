"""``diffadapt report`` and ``diffadapt compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from diffadapt.commands.options import RootOption, parse


@dataclass(frozen=True)
class ReportOptions(RootOption):
    run: tyro.conf.Positional[str] = "last"
    """A run's name or prefix, or 'last'."""


def report(argv: Sequence[str]) -> int:
    from diffadapt.commands.run import show_result
    from diffadapt.report.html import write_report

    options = parse(ReportOptions, argv, "report")
    run = options.open().run(options.run)
    run.manifest()
    write_report(run)
    show_result(run)
    return 0


@dataclass(frozen=True)
class CompareOptions(RootOption):
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Two or more run names or prefixes."""


def compare(argv: Sequence[str]) -> int:
    from diffadapt.core.errors import StoreError
    from diffadapt.report.compare import compare as table

    options = parse(CompareOptions, argv, "compare")
    if len(options.runs) < 2:
        raise StoreError("compare needs two runs or more; `diffadapt status` lists them.")
    root = options.open()
    print(table([root.run(name) for name in options.runs]))
    return 0
