"""Starting a small Ray of our own, or joining the cluster that was named; nothing is joined by accident."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

import diffadapt
from diffadapt.core.discover import VARIABLES
from diffadapt.core.errors import ResourceError
from diffadapt.core.functions import MODULE
from diffadapt.core.redact import redact
from diffadapt.data.image import MAX_PIXELS_VARIABLE
from diffadapt.orchestrate import internals
from diffadapt.orchestrate.witness import Witness, raylet_of
from diffadapt.run.runner import ExecutionConfig

MIN_LOGICAL_CPUS = 4
CONNECT_SECONDS = 5.0
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_TRACKERS = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"),
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_DIR"),
)
"""Where trackers write to; a value with a login or token in it is not handed on, since a cluster shows it."""
# Of this process alone: by default Ray leaves a token in the home folder, and with it the next `ray start` of
# this user would ask for tokens.
_TOKEN = secrets.token_hex(16)
PLACE = "DIFFADAPT_DRIVER_FOLDER"
"""The environment variable by which workers of a joined cluster know the driver's folder."""


class Connection:
    """A connection to Ray; :meth:`close` ends only what :meth:`open` began."""

    def __init__(self, config: ExecutionConfig):
        self.config = config
        self.own = False
        """Whether the cluster is ours: its processes end with this one."""
        self._connected = False
        self._environment: dict[str, str | None] = {}
        self._witness: Witness | None = None

    def open(self) -> None:
        """Use the connection this process has, else join the named cluster, else start one. ResourceError if
        that fails."""
        _send_recipe_files()
        if ray.is_initialized():
            return
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        address = named_address(self.config)
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            with _silent_stderr():
                if address is None:
                    self._start()
                else:
                    self._join(address)
        except ResourceError:
            raise
        except Exception as error:
            if address and (said := internals.mismatch(error, address)):
                raise ResourceError(said) from None
            what = (
                f"Ray at {address} could not be joined"
                if address
                else "Ray could not be started on this machine"
            )
            hint = (
                " (RAY_AUTH_MODE=token and the cluster's token are needed when it asks for one)"
                if address
                else ""
            )
            raise ResourceError(
                f"{what}: {_first_line(error)}{hint}; mend that, or use --execution.runner local."
            ) from error
        self._connected = True
        self._witness = _witness(self.own)
        atexit.register(self._dismiss)  # before Ray's own, should nobody close
        if terminate not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place of the command line's

    def close(self) -> None:
        """Disconnect, which ends our actors and, if the cluster is ours, its processes."""
        self._dismiss()
        if self._connected:
            ray.shutdown()
            self._connected = False
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment.clear()

    def _dismiss(self) -> None:
        atexit.unregister(self._dismiss)
        if self._witness is not None:
            self._witness.dismiss()
            self._witness = None

    def _start(self) -> None:
        if "RAY_AUTH_MODE" not in os.environ:  # ray.init then switches token authentication on
            self._remember("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
            os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
        # Ray's processes inherit this one's environment; a runtime_env would make it discard the workers it
        # starts first.
        variables = worker_environment(self.config)
        self._remember(*variables)
        os.environ.update(variables)
        try:
            self._init()
        except Exception as error:
            if not _too_slow(error):
                raise
            _end_half(error)
            try:
                self._init()
            except Exception as again:
                _end_half(again)
                if not _too_slow(again):
                    raise
                raise ResourceError(
                    "Ray could not be started on this machine: it was too slow to come up, twice"
                    f" ({_first_line(again)}). Run the same command when the machine is less busy, or use"
                    " --execution.runner local."
                ) from again
        self.own = True

    def _init(self) -> None:
        cores = os.cpu_count() or 1
        ray.init(
            address="local",
            num_cpus=max(MIN_LOGICAL_CPUS, cores),
            num_gpus=0 if self.config.device == "cpu" else None,
            object_store_memory=max(100, self.config.object_store_mb) * 2**20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )

    def _join(self, address: str) -> None:
        _demand_address(address)
        job = _job_runtime_env()
        # Ray refuses a driver that sets again what its job sets; inside a job the code comes with the job.
        inherited = job.get("env_vars") or {}
        variables = {
            k: v for k, v in worker_environment(self.config, roots=not job).items() if k not in inherited
        }
        environment: dict[str, Any] = {"env_vars": variables}
        if not job.get("working_dir") and not job.get("worker_process_setup_hook"):
            variables[PLACE] = os.getcwd()
            environment["worker_process_setup_hook"] = f"{settle.__module__}.{settle.__name__}"
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)

    def _remember(self, *names: str) -> None:
        self._environment.update({name: os.environ.get(name) for name in names})


def settle() -> None:
    """In a worker process of a cluster that was started elsewhere: go to the driver's folder, so that the
    relative paths of a recipe, its weights, prompts and own files mean the same. Where there is no such
    folder on the worker's machine, the paths are those of no file, and whoever opens one says so."""
    with contextlib.suppress(OSError):
        os.chdir(os.environ[PLACE])


def named_address(config: ExecutionConfig) -> str | None:
    """The cluster that the recipe or the environment names (Ray sets RAY_ADDRESS inside a job), or None."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


def worker_environment(config: ExecutionConfig, *, roots: bool = True) -> dict[str, str]:
    """Environment variables of every worker: thread limits, quiet logs and, with ``roots``, where to import
    from."""
    threads = str(max(1, config.threads))
    variables = {
        **_QUIET,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
    if roots:
        variables["PYTHONPATH"] = os.pathsep.join(import_roots())
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME", MAX_PIXELS_VARIABLE, *VARIABLES, *_TRACKERS):
        if name in os.environ and (name not in _TRACKERS or redact(os.environ[name]) == os.environ[name]):
            variables[name] = os.environ[name]
    return variables


def import_roots() -> list[str]:
    """Folders that this process imports from besides its installation: workers find the same modules
    there."""
    installed = {Path(p).resolve() for p in sysconfig.get_paths().values()}
    result = [str(Path(diffadapt.__file__).resolve().parents[1])]
    for entry in sys.path:
        path = Path(entry or os.getcwd()).resolve()
        inside = any(path == i or i in path.parents for i in installed)
        if path.is_dir() and not inside and str(path) not in result:
            result.append(str(path))
    return result


def _send_recipe_files() -> None:
    """Classes that a recipe file defines travel by value: workers cannot import that file."""
    for name, module in list(sys.modules.items()):
        if name.startswith(MODULE):
            cloudpickle.register_pickle_by_value(module)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _too_slow(error: BaseException) -> bool:
    """Whether a start of Ray ended because one of its processes did not answer within Ray's own, fixed
    time."""
    text = str(error).lower()
    return any(part in text for part in ("timed out", "timeout", "overloaded", "failed to connect to gcs"))


def _end_half(error: BaseException) -> None:
    """End what a failed start has begun; only the frames of its error still know of it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        kill = getattr(node, "kill_all_processes", None)
        if callable(kill):
            kill(check_alive=False, allow_graceful=False)
            break
    ray.shutdown()


def _witness(own: bool) -> Witness | None:
    node, gcs_server, *_ = internals.piece("processes") or (None, None)
    if node is None:
        return None
    try:
        gcs = node.all_processes[gcs_server][0].process.pid if own else None
        return Witness(raylet_of(node.raylet_socket_name), gcs, "" if own else node.gcs_address)
    except (AttributeError, LookupError):  # of a Ray that keeps them otherwise
        return None


def quiet_logs() -> None:
    """Keep Ray's own reporting off the terminal; call after the library in question was imported, which sets
    levels anew."""
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing on file descriptor 2: Ray's native code announces its log level there. Failures still raise."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _job_runtime_env() -> dict[str, Any]:
    """The runtime environment of the submitted job that this process is the entrypoint of; empty outside a
    job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return job.get("runtime_env") or {}


def _demand_address(address: str) -> None:
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise ResourceError(
            f"{address} is not the address of a cluster's GCS: submit with `ray job submit --address"
            f" {address}`, or give host:port as `ray start --head` prints it."
        )
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"No Ray cluster answers at {address} ({error}): start one with `ray start --head`, mend the"
            " address, or leave it out to use this machine."
        ) from None
