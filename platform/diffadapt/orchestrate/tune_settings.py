"""Ray Tune without its tables, loggers and signal handlers, and with workers that memory ran out for counted
as lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from diffadapt.orchestrate import internals

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report carries the result alone
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table even when told to be silent
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's relative paths mean the same in a trial
}


@contextlib.contextmanager
def tune_environment(variables: Mapping[str, str] = TUNE_ENVIRONMENT) -> Iterator[None]:
    """Within this context Tune heeds ``variables`` and survives the loss of any worker."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with _every_loss_is_an_actor_error():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _every_loss_is_an_actor_error() -> Iterator[None]:
    """Ray 2.60 gives OutOfMemoryError for an actor that the memory monitor ended; Tune takes it for a fault
    of its own and ends all trials (measured)."""
    if (found := internals.piece("lost trials")) is None:
        yield
        return
    manager, original = found

    def task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        original(self, tracked_actor_task, exception)

    manager._actor_task_failed = task_failed
    try:
        yield
    finally:
        manager._actor_task_failed = original
