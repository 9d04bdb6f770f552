"""Jobs on a cluster through Ray's job server: connect, send, follow, stop. What a job runs is the caller's
business.

Every question to the server has a time limit, and everything that can go wrong with it is one sentence
(ResourceError). The token is sent when RAY_AUTH_MODE=token, or when the server asks for one and one is at
hand; it is never part of a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from diffadapt.core.errors import ResourceError, suggest
from diffadapt.core.redact import redact
from diffadapt.core.versions import RAY, pythons, rays, spoken
from diffadapt.orchestrate import internals
from diffadapt.orchestrate.bundle import Bundle
from diffadapt.orchestrate.interpreter import FUNCTION, HOOK

LOCAL = "http://127.0.0.1:8265"
TIMEOUTS = (5.0, 120.0)
"""Seconds to connect, and without a byte while answering (an upload included)."""
PATIENCE = 60.0
"""Seconds without an answer after which a followed job is given up on; it goes on running."""
HEAD = 4096
"""Characters of a log in which Ray's own first two lines are."""
STOP_SECONDS = 60
"""What a job is given to end by itself when it is stopped; Ray's default of 3 s kills a driver that is
writing its status."""
_RAYS_OWN = re.compile(
    r"^(.*job_manager\.py:\d+ -- Runtime env is setting up\.|Running entrypoint for job .*)\n", re.MULTILINE
)


@dataclass(frozen=True)
class Cluster:
    """What the job server tells of its cluster; ``here``: the head runs on this machine."""

    ray: str
    python: str
    nodes: int
    here: bool


def job_server(address: str) -> str:
    """The URL of the job server: ``address``, else DIFFADAPT_ADDRESS, RAY_ADDRESS, or this machine's.
    host:port of a cluster's GCS, which RAY_ADDRESS may also hold, means the job server of the same host at
    its usual port."""
    named = address or named_server()
    if "://" in named and not named.startswith("ray://"):
        return named.rstrip("/")
    host, _, port = named.removeprefix("ray://").rpartition(":")
    if named.startswith("ray://") or not address:
        return f"http://{host}:8265" if host else LOCAL
    return f"http://{named}" if port.isdigit() else (LOCAL if named == "auto" else f"http://{named}:8265")


def named_server() -> str:
    """The address that the environment names, or an empty string."""
    return os.environ.get("DIFFADAPT_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""


class JobServer:
    """A job server that has answered. Raises ResourceError, within seconds, when none does or the token is
    not accepted."""

    def __init__(self, address: str = ""):
        self.address = job_server(address)
        with self._plainly():
            self._client = _connect(self.address)

    def cluster(self) -> Cluster:
        """What runs there."""
        with self._plainly():
            versions = self._get("/api/v0/cluster_metadata")
            nodes = self._get("/nodes?view=summary")["summary"]
        head = next((n for n in nodes if n.get("raylet", {}).get("isHeadNode")), {})
        alive = [n for n in nodes if n.get("raylet", {}).get("state") == "ALIVE"]
        return Cluster(
            versions["rayVersion"],
            versions["pythonVersion"],
            max(1, len(alive)),
            head.get("hostname") == platform.node(),
        )

    def send(
        self,
        words: Sequence[str],
        bundle: Bundle,
        env: Mapping[str, str],
        job: str,
        metadata: Mapping[str, str],
        wait: float = 30.0,
    ) -> None:
        """Start ``python3 -m diffadapt.cli <words>`` as the job ``job``. A head that is still starting is
        waited for, ``wait`` seconds.

        Raises ResourceError when there is a job of that name already.
        """
        import shlex

        variables = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
            HOOK: FUNCTION,
            **bundle.env,
            **env,
        }
        runtime_env = {
            "working_dir": str(bundle.working),
            "py_modules": [str(bundle.package)],
            "env_vars": variables,
        }
        entrypoint = f"exec python3 -m diffadapt.cli {shlex.join(words)}"
        end = time.monotonic() + wait
        with self._plainly():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        runtime_env=runtime_env,
                        submission_id=job,
                        metadata=dict(metadata),
                    )
                    return
                except RuntimeError as error:
                    if "already exists" in str(error):
                        raise ResourceError(
                            f"There is a job {job!r} on this cluster already, and names are given once:"
                            f" choose another --submission-id, such as {_next(job)}; what is finished is"
                            " found again by the root, not by the job's name."
                        ) from None
                    if "No available agent" not in str(error) or time.monotonic() > end:
                        raise
                    time.sleep(1.0)

    def jobs(self) -> list[JobDetails]:
        """Submitted jobs, newest first."""
        with self._plainly():
            result = [j for j in self._client.list_jobs() if j.submission_id]
        return sorted(result, key=lambda j: -(j.start_time or 0))

    def job(self, name: str) -> JobDetails:
        """The job of that name, its unique prefix, or ``last``: the newest; ResourceError if there is
        none."""
        jobs = self.jobs()
        ids = [str(j.submission_id) for j in jobs]
        matches = [j for j in jobs if j.submission_id == name] or (
            [*jobs[:1]] if name == "last" else [j for j in jobs if str(j.submission_id).startswith(name)]
        )
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            raise ResourceError(
                f"{name!r} fits several jobs: {', '.join(str(j.submission_id) for j in matches[:5])}; give"
                " more of the name."
            )
        raise ResourceError(
            f"There is no job {name!r} at {redact(self.address)}.{suggest(name, ids)} `diffadapt job ls`"
            " lists them."
        )

    def logs(self, name: str) -> str:
        """Everything that the job has printed so far."""
        with self._plainly():
            return _RAYS_OWN.sub("", self._client.get_job_logs(name), count=2)

    def follow(self, name: str, write: Callable[[str], None]) -> JobDetails:
        """Hand what the job prints to ``write``, from its beginning, until it ends; a connection that breaks
        is taken up again where it was.

        Raises ResourceError when the server stays silent for PATIENCE seconds.
        """
        with self._plainly():
            asyncio.run(self._tail(name, write))
        return self.job(name)

    def stop(self, name: str) -> bool:
        """Ask the job to end (SIGTERM); False when it had ended before."""
        with self._plainly():
            return self._client.stop_job(name)

    def wait(self, name: str, seconds: float) -> JobDetails:
        """The job once it has ended, or after ``seconds``."""
        end = time.monotonic() + seconds
        while not (job := self.job(name)).status.is_terminal() and time.monotonic() < end:
            time.sleep(0.5)
        return job

    async def _tail(self, name: str, write: Callable[[str], None]) -> None:
        written, answered = 0, time.monotonic()
        while True:
            position = 0
            try:
                async for text in self._messages(name):
                    answered = time.monotonic()
                    if (new := position + len(text) - written) > 0:
                        written += new
                        write(_RAYS_OWN.sub("", text[-new:]) if position < HEAD else text[-new:])
                    position += len(text)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
                pass
            try:
                status = self._client.get_job_status(name)
                answered = time.monotonic()
            except (requests.RequestException, ConnectionError):
                status = JobStatus.RUNNING
            if status.is_terminal():
                return
            if time.monotonic() - answered > PATIENCE:
                raise ResourceError(
                    f"The job server at {redact(self.address)} has not answered for {PATIENCE:.0f} s: if the"
                    f" cluster still lives so does the job, and `diffadapt job logs {name} --follow` goes on;"
                    " if its head is gone, start a cluster and submit the same line again."
                )
            await asyncio.sleep(1.0)

    async def _messages(self, name: str) -> AsyncIterator[str]:
        if (way := internals.websocket(self._client)) is None:
            async for text in self._client.tail_job_logs(name):
                yield text
            return
        async with aiohttp.ClientSession(cookies=way["cookies"], headers=way["headers"]) as session:
            async with session.ws_connect(
                f"{way['url']}/api/jobs/{name}/logs/tail",
                ssl=way["ssl"] if way["ssl"] is not None else True,
                heartbeat=20.0,
                max_msg_size=0,
            ) as socket:
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        yield message.data

    def _get(self, endpoint: str) -> Any:
        answer = self._client._do_request("GET", endpoint)
        answer.raise_for_status()
        return answer.json()["data"]

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Whatever the client raises as one sentence."""
        place = redact(self.address)
        try:
            yield
        except AuthenticationError as error:
            text = str(error)
            if "Authentication failed" in text:
                why, mend = "does not accept this token", "put the cluster's own token"
            else:
                why, mend = (
                    "asks for a token and none was found",
                    "put the cluster's token (of ~/.ray/auth_token on its head)",
                )
            raise ResourceError(
                f"The job server at {place} {why}: {mend} into ~/.ray/auth_token or the variable"
                " RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token."
            ) from None
        except (requests.exceptions.ConnectionError, ConnectionError, requests.exceptions.Timeout):
            raise ResourceError(
                f"No job server answers at {place}: start a cluster with `ray start --head`, mend --address"
                " (http://head:8265, the address of Ray's dashboard), or open a way to it (ssh -L"
                " 8265:localhost:8265 head)."
            ) from None
        except (requests.exceptions.RequestException, ValueError, KeyError, TypeError) as error:
            raise ResourceError(
                f"What answers at {place} is no Ray job server ({type(error).__name__}): give the address of"
                " Ray's dashboard, such as http://head:8265."
            ) from None
        except RuntimeError as error:
            line = next(
                (t for t in reversed(str(error).strip().splitlines()) if t.strip()), "no reason given"
            )
            raise ResourceError(f"The job server at {place} refused: {redact(line.strip())}") from None


def check(cluster: Cluster) -> None:
    """ResourceError for a cluster whose Ray or Python this package does not run on."""
    if not (wanted := rays()).contains(cluster.ray, prereleases=True):
        raise ResourceError(
            f"The cluster runs Ray {cluster.ray}, this is Ray {ray.__version__}, and diffadapt needs"
            f" {spoken(wanted)}: start the cluster with {RAY}=={ray.__version__}."
        )
    if not (wanted := pythons()).contains(cluster.python, prereleases=True):
        raise ResourceError(
            f"The cluster runs Python {cluster.python}, and diffadapt needs {spoken(wanted)}: start the"
            " cluster with such a Python."
        )


def _connect(address: str) -> JobSubmissionClient:
    """Without a token first, unless RAY_AUTH_MODE=token: a server that asks for none is not shown one."""
    if internals.piece("job client") is None:
        raise ResourceError(
            f"The job client of Ray {ray.__version__} is not one that diffadapt can use: `pip install"
            f" '{RAY}{spoken(rays())}'`."
        )
    for name in (
        "ray.dashboard.modules.job.sdk",
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    token = "" if mode == "disabled" else _token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with _nothing_overrides(address):
        try:
            return _Client(address, headers=headers if mode == "token" else {})
        except AuthenticationError:
            if mode or not headers:
                raise
            return _Client(address, headers=headers)


class _Client(JobSubmissionClient):
    """Ray's client with a time limit for every request."""

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, timeout=TIMEOUTS, **options)


@contextlib.contextmanager
def _nothing_overrides(address: str) -> Iterator[None]:
    """Ray's client prefers RAY_ADDRESS to the address that it is given, unless this variable says
    otherwise."""
    kept = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        if kept is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = kept


def _token() -> str:
    """The token where Ray looks for it, or an empty string."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    try:
        return token_file().read_text().strip()
    except OSError:
        return ""


def token_file() -> Path:
    """Where Ray keeps the token of a cluster on this machine."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(file) if file else Path.home() / ".ray" / "auth_token"


def _next(job: str) -> str:
    stem, _, number = job.rpartition("-")
    return f"{stem}-{int(number) + 1}" if stem and number.isdigit() else f"{job}-2"
