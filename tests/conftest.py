"""What all tests share: no hub, few threads, the same examples everywhere, and a Ctrl-C that child processes
heed wherever the tests are started from."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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

ROOT = Path(__file__).resolve().parents[1]
WITH_RAY = (
    "tests/ray/",
    "tests/fault/",
    "tests/contract/test_adaptation_on_ray",
    "tests/contract/test_zodi_on_ray",
    "tests/contract/test_runner_parity",
)
"""Where tests start a Ray of their own; two of these at once would starve each other."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for test processes side by side (pytest-xdist): all that starts Ray, first; else a file."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        item.add_marker(pytest.mark.xdist_group("ray" if path.startswith(WITH_RAY) else path))
    items.sort(key=lambda item: not item.path.relative_to(ROOT).as_posix().startswith(WITH_RAY))
