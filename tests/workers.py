"""Processes of tests: a group of two for data-parallel training, and one that a test may kill."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Workers are forked from a server that has this loaded: importing it takes longer than most of the tests.
multiprocessing.set_forkserver_preload(
    ["torch", "torch.distributed", "timm", "pyarrow.parquet", "tests.workers", "diffadapt.train.loop"]
)


def in_two_workers(work: Callable[..., None], folder: Path | str, *args: Any) -> None:
    """``work(rank, str(folder), *args)`` in two processes of one gloo group; an error in either is raised
    here."""
    inputs = (work, str(folder), args, dict(os.environ))
    mp.start_processes(_enter, inputs, nprocs=2, start_method="forkserver")


def in_the_background(work: Callable[..., int | None], *args: Any, log: Path) -> BaseProcess:
    """``work(*args)`` in a process and session of its own, which has started; its output is added to
    ``log``, and its exit status is what ``work`` returns."""
    inputs = (work, args, dict(os.environ), str(log))
    process = multiprocessing.get_context("forkserver").Process(target=_alone, args=inputs)
    process.start()
    return process


def _alone(
    work: Callable[..., int | None], args: tuple[Any, ...], environment: dict[str, str], log: str
) -> None:
    os.setsid()
    with open(log, "ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(work(*args))


def _enter(
    rank: int, work: Callable[..., None], folder: str, args: tuple[Any, ...], environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    work(rank, folder, *args)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # An ordinary exit takes the interpreter down under torch's own threads; one that then still wants it
    # aborts the process.
    os._exit(0)
