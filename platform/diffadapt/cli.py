"""The command line: ``diffadapt <command>``. Each command lives in commands/ and imports what it needs when
it runs."""

from __future__ import annotations

import importlib
import os
import sys

from diffadapt import __version__
from diffadapt.core.errors import DiffadaptError, suggest
from diffadapt.core.interrupts import Interrupts, seen

COMMANDS = {
    "ls": ("recipes", "list the recipes", "diffadapt ls sda"),
    "show": (
        "recipes",
        "show every field of a recipe and its value",
        "diffadapt show quickstart --synth.guidance 1.5",
    ),
    "plan": (
        "plan",
        "what a run would make, and what the store already has; writes nothing",
        "diffadapt plan sda/imagenet_c/resnet50",
    ),
    "run": (
        "run",
        "run a recipe; the same command resumes it",
        "diffadapt run quickstart --synth.images-per-class 400",
    ),
    "sweep": (
        "sweep",
        "search recipe fields; the same command resumes it",
        "diffadapt sweep tune_spaces/digits --recipe adapt_anything/digits",
    ),
    "submit": (
        "submit",
        "a run or a sweep as a job of a Ray cluster",
        "diffadapt submit quickstart --root /shared/diffadapt",
    ),
    "job": ("job", "the jobs of a cluster: ls, logs, stop", "diffadapt job logs last --follow"),
    "cluster": (
        "cluster",
        "files that start clusters, copied to be filled in: init",
        "diffadapt cluster init --kind slurm --out cluster/",
    ),
    "status": ("status", "runs, sweeps and jobs, and how far they are", "diffadapt status"),
    "ui": (
        "ui",
        "a local page: runs and sweeps live, pictures, tables, comparisons; only reads",
        "diffadapt ui --root /data/diffadapt",
    ),
    "report": (
        "report",
        "print the table of a run or a sweep and write its HTML report",
        "diffadapt report last",
    ),
    "compare": (
        "report",
        "scores and settings of several runs side by side",
        "diffadapt compare quickstart-1a2b3c4d quickstart-5e6f7a8b",
    ),
    "audit": (
        "audit",
        "accuracies with intervals from a few labels: writes a page to label images on, reads the labels",
        "diffadapt audit --run last --n 80 --out audit/",
    ),
    "predict": (
        "predict",
        "adapted predictions for new, unlabelled images",
        "diffadapt predict --run last photos/ --out preds.parquet",
    ),
    "serve": (
        "serve",
        "adapted predictions over HTTP, on Ray Serve",
        "diffadapt serve --run last --port 8000",
    ),
    "export": (
        "export",
        "images as folder trees, trained models as folders",
        "diffadapt export last --what aligned --out aligned/",
    ),
    "cache": (
        "cache",
        "the store: ls, why (what differs), gc",
        "diffadapt cache why synth/digits-dit-3f9c synth/digits-dit-77ab",
    ),
    "weights": (
        "weights",
        "import the original authors' checkpoints; list what is at hand",
        "diffadapt weights import-adm 256x256_diffusion_uncond.pt --out adm-256-uncond",
    ),
    "doctor": (
        "doctor",
        "check the installation; --parity FOLDER compares with reference numbers",
        "diffadapt doctor",
    ),
    "completion": (
        "completion",
        "what a shell loads to complete commands, recipes and options: bash, zsh",
        "diffadapt completion bash",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 good, 1 a check failed, 2 the user's to mend, 130
    interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        print(f"diffadapt {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "__complete":
        return int(importlib.import_module("diffadapt.commands.completion").complete(rest))
    if name not in COMMANDS:
        print(
            f"There is no command {name!r}.{suggest(name, COMMANDS)} `diffadapt --help` lists them.",
            file=sys.stderr,
        )
        return 2
    with Interrupts():
        try:
            module = importlib.import_module(f"diffadapt.commands.{COMMANDS[name][0]}")
            return int(getattr(module, name)(rest) or 0)
        except KeyboardInterrupt:
            return _interrupted()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except DiffadaptError as error:
            if seen():
                return _interrupted()
            from diffadapt.core.redact import redact

            print(f"\n{redact(str(error))}", file=sys.stderr)
            return 2
        except Exception as error:
            if seen():
                return _interrupted()
            from diffadapt.core.causes import of_system
            from diffadapt.core.redact import redact

            if (said := of_system(error)) is None:
                import traceback

                print(redact(traceback.format_exc()), end="", file=sys.stderr)
                return 1
            print(f"\n{redact(said)}", file=sys.stderr)
            return 2


def _interrupted() -> int:
    # An interrupt inside exec, which dataclasses use, would make Python end by signal 2 and not with 130.
    exec("")
    print("\nInterrupted. Everything finished is kept; the same command goes on from here.", file=sys.stderr)
    return 130


def overview() -> str:
    """The help page: commands and an example each."""
    width = max(map(len, COMMANDS))
    lines = [
        f"diffadapt {__version__}: adapt a vision model to a domain without labels,"
        " with diffusion models supplying the data.",
        "",
        "usage: diffadapt <command> [options]",
        "",
    ]
    for name, (_, summary, example) in COMMANDS.items():
        lines += [f"  {name:<{width}}  {summary}", f"  {'':<{width}}  $ {example}"]
    return "\n".join([*lines, "", "`diffadapt <command> --help` shows its options."])


def example(name: str) -> str:
    """The example line of one command, for its help."""
    return f"Example: {COMMANDS[name][2]}"


if __name__ == "__main__":
    sys.exit(main())
