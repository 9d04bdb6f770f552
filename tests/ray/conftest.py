"""One small Ray for all tests of a module: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.runner import ExecutionConfig


@pytest.fixture(scope="module")
def ray_runner() -> Iterator[RayRunner]:
    runner = RayRunner(ExecutionConfig(device="cpu", actors=2))
    runner.prepare()
    yield runner
    runner.close()
