"""What precision a recipe that leaves it to the device computes in, decided before anything is planned."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, TypeVar

from diffadapt.core.config import settle, unsettled

if TYPE_CHECKING:
    from diffadapt.run.runner import ExecutionConfig

T = TypeVar("T")


def settled(recipe: T, machine: Any = None, layout: Any = None) -> T:
    """``recipe`` with the precisions that the devices of its run decide: those of ``machine`` of the price
    list, else of the cluster that is named (``layout``: what cluster_layout said of it, if asked), else of
    this machine. Raises ResourceError when the cluster does not answer."""
    if not unsettled(recipe):
        return recipe
    cuda = machine.gpus > 0 if machine is not None else on_cuda(recipe.execution, layout)  # type: ignore[attr-defined]
    return settle(recipe, "cuda" if cuda else "cpu")


def on_cuda(execution: ExecutionConfig, layout: Any = None) -> bool:
    """Whether work that is carried out so is done on CUDA devices."""
    if execution.device != "auto":
        return execution.device.startswith("cuda")
    if execution.runner != "local" and (execution.address or os.environ.get("RAY_ADDRESS")):
        from diffadapt.api.runners import cluster_layout

        found = layout or cluster_layout(execution)
        return found is not None and found[0].device == "cuda"
    return _drivers_devices() > 0 and _torch_finds_one()


def _drivers_devices() -> int:
    """What the driver of CUDA counts; without one torch, which takes seconds to import, need not be asked."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value
    except (OSError, AttributeError):
        return 0


def _torch_finds_one() -> bool:
    import torch

    return torch.cuda.is_available()
