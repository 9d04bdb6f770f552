"""The interpreter of a submitted job is the one that Ray runs on, whatever ``python`` is first on the PATH of
the machine.

Ray hands a job's entrypoint to a shell, with the environment of the worker process that supervises it and no
word on where its own interpreter lies. That worker can be told to call a function when it starts, before the
entrypoint: this one puts its interpreter's folder first on PATH, so that ``python`` and ``python3`` mean
Ray's. cluster/job.yaml and ``diffadapt submit`` name it in the variable :data:`HOOK`; a version of Ray that
does not know the variable leaves PATH as it was.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Read by every worker process of Ray 2.60 at its start. The documented field, worker_process_setup_hook,
sets the same variable for the workers of a job but not for the one that starts the entrypoint."""
FUNCTION = f"{__name__}.put_first"


def put_first() -> None:
    """Put the folder of this process's interpreter first on PATH."""
    if not sys.executable:
        return
    folder, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *([path] if path else [])])
