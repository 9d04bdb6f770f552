"""What all tests share: no hub, few threads, the same examples everywhere, and a Ctrl-C that child processes
heed wherever the tests are started from."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers step back behind everything else on the machine, here the other test processes.
os.environ.setdefault("RAY_worker_niceness", "0")
# Nothing is read from, or left in, the user's own cache.
os.environ["DIFFADAPT_CACHE"] = tempfile.mkdtemp(prefix="diffadapt-tests-")
atexit.register(shutil.rmtree, os.environ["DIFFADAPT_CACHE"], ignore_errors=True)
# A shell's background job ignores SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Hypothesis would draw other examples, within a deadline, wherever CI is not set; no test measures time.
with contextlib.suppress(ImportError):  # the tests that need it import it themselves
    from hypothesis import settings

    settings.register_profile("anywhere", derandomize=True, deadline=None, database=None)
    settings.load_profile("anywhere")

# Collecting makes a million objects that stay: looking through them over and over is a quarter of its time.
gc.disable()

ROOT = Path(__file__).resolve().parents[1]
WITH_RAY = (
    "tests/ray/test_chains",
    "tests/ray/test_fits",
    "tests/ray/test_job",
    "tests/ray/test_metrics",
    "tests/ray/test_population",
    "tests/ray/test_sweep",
    "tests/fault/test_autoscaling",
    "tests/fault/test_driver",
    "tests/fault/test_node",
    "tests/fault/test_ray_dies",
    "tests/fault/test_sweep_faults",
    "tests/contract/test_adaptation_on_ray",
    "tests/contract/test_zodi_on_ray",
    "tests/contract/test_runner_parity",
)
"""Where tests start a Ray of their own; two of these at once would starve each other."""


def pytest_collection_finish() -> None:
    """What was imported is looked through no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries look at the end for what was not released


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Ray goes first: it is the longest piece of a run in several processes."""
    items.sort(key=lambda item: not item.path.relative_to(ROOT).as_posix().startswith(WITH_RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Test processes side by side (pytest-xdist): all that starts Ray in one of them, else file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(WITH_RAY) else nodeid.partition("::")[0]

    return Scheduling(config, log)
