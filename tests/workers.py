"""A process group of two for tests of data-parallel training."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
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
