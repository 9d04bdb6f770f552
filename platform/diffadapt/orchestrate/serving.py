"""A run's models behind HTTP on Ray Serve: replicas hold the models, doors take the requests."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from diffadapt.core.errors import DiffadaptError, ResourceError
from diffadapt.core.listening import bound
from diffadapt.core.upload import Upload
from diffadapt.orchestrate import metrics
from diffadapt.orchestrate.connection import Connection, named_address
from diffadapt.run.door import Door, Limits, Observed, Unavailable
from diffadapt.run.runner import ExecutionConfig

Open = Callable[[], Callable[[Sequence[Upload]], list[dict[str, Any]]]]
APPLICATION = "diffadapt"
TRIES = 6
"""Replicas that a few images are shown to, one after another, where each ends before it answers."""


@dataclass(frozen=True)
class Service:
    """What is served, and how."""

    about: Mapping[str, Any]
    open: Open
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    wait_ms: float = 10.0
    limits: Limits = Limits()
    token: str = ""
    gpus: float = 0.0
    """Of each replica."""


# Older Ray counts requests, each of which has at most a batch of images.
_BY_IMAGES: Any = (
    {"batch_size_fn": lambda calls: sum(map(len, calls))}
    if "batch_size_fn" in inspect.signature(serve.batch).parameters
    else {}
)


class Models:
    """One replica: the models, loaded once, and the images of several requests at a time."""

    def __init__(self, opened: Open, batch: int, wait_seconds: float):
        self.answers = opened()
        self.answer.set_max_batch_size(batch)  # type: ignore[attr-defined]
        self.answer.set_batch_wait_timeout_s(wait_seconds)  # type: ignore[attr-defined]

    @serve.batch(**_BY_IMAGES)
    async def answer(self, calls: list[Sequence[Upload]]) -> list[list[dict[str, Any]]]:
        images = [image for call in calls for image in call]
        metrics.served_batch(len(images))
        loop = asyncio.get_running_loop()
        rows = iter(await loop.run_in_executor(None, self.answers, images))
        return [[next(rows) for _ in call] for call in calls]

    async def ping(self) -> bool:
        return True


class Entrance:
    """One door: light, so that it answers while the models work."""

    def __init__(self, models: Any, about: Mapping[str, Any], limits: Limits, token: str):
        self.models = models
        self.door = Door(about, limits, self._ask, self._ready, token, _observe)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse  # pyright: ignore[reportMissingImports]

        reply = await self.door(
            request.method, request.url.path, request.url.query, request.headers, request.stream()
        )
        return JSONResponse(reply.content, reply.status, dict(reply.headers))

    async def _ask(self, images: Sequence[Upload]) -> list[dict[str, Any]]:
        """A replica that ends with the images in its hands has answered nothing: another is asked."""
        for attempt in range(TRIES):
            try:
                return await self.models.answer.remote(list(images))
            except RayTaskError as error:
                if isinstance(error.cause, DiffadaptError):
                    raise error.cause from None
                raise
            except (RayActorError, RayServeException) as error:
                logging.getLogger("ray.serve").warning("A replica is asked again: %s", type(error).__name__)
                await asyncio.sleep(0.1 * 2**attempt)
        raise Unavailable("No replica could answer: ask again later.")

    async def _ready(self) -> bool:
        return await asyncio.wait_for(self.models.ping.remote(), 2.0)


def _observe(seen: Observed) -> None:
    metrics.served(seen.status, seen.seconds, seen.answered, seen.refused)


class Served:
    """A context manager: the service runs within it. ResourceError, before anything starts where that can be
    known, for a taken port and for more replicas than the machine or the cluster has room for."""

    def __init__(self, service: Service, config: ExecutionConfig):
        self.service, self.connection = service, Connection(config)

    def __enter__(self) -> Served:
        if named_address(self.connection.config) is None:
            _demand_port(self.service.host, self.service.port)
        self.connection.open()
        try:
            self._demand_room()
            self._deploy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the service, and the Ray that was started for it."""
        try:
            if ray.is_initialized() and self.connection.own:
                serve.shutdown()
            elif ray.is_initialized():
                serve.delete(APPLICATION)
        except Exception:  # a Ray that is gone has ended it already
            logging.getLogger(__name__).debug("Serve could not be ended.", exc_info=True)
        finally:
            self.connection.close()

    def wait(self) -> None:
        """Until interrupted. ResourceError when the service has ended by itself."""
        while True:
            time.sleep(2)
            try:
                state = serve.status().applications[APPLICATION]
            except (RayError, RayServeException, KeyError, ConnectionError) as error:
                raise ResourceError(
                    f"The service has ended by itself ({type(error).__name__}): start the same command again."
                ) from None
            if state.status.value == "DEPLOY_FAILED":
                raise ResourceError(_why(state))

    def metrics_address(self) -> str:
        """Where Prometheus reads this node's series; empty where Ray exports none."""
        node = ray.nodes()[0]
        port, host = node.get("MetricsExportPort"), node["NodeManagerAddress"]
        return f"http://{'127.0.0.1' if self.connection.own else host}:{port}/metrics" if port else ""

    def _demand_room(self) -> None:
        s, has = self.service, ray.cluster_resources()
        for name, each in (("CPU", 1.0), ("GPU", s.gpus)):
            if each and s.replicas * each > has.get(name, 0.0):
                raise ResourceError(
                    f"{s.replicas} replicas need {s.replicas * each:g} {name}, but there are"
                    f" {has.get(name, 0.0):g}: use fewer --replicas"
                    + (", or a smaller --execution.gpus-per-actor." if name == "GPU" else ".")
                )

    def _deploy(self) -> None:
        s = self.service
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(
            proxy_location="HeadOnly" if self.connection.own else "EveryNode",
            http_options={"host": s.host, "port": s.port, "request_timeout_s": s.limits.seconds + 5},
            logging_config=quiet,
        )
        models = serve.deployment(Models).options(
            num_replicas=s.replicas,
            max_ongoing_requests=2 * s.limits.batch + 2,
            ray_actor_options={"num_cpus": 1, "num_gpus": s.gpus},
            health_check_period_s=5,
            health_check_timeout_s=60,
            logging_config=quiet,
        )
        entrance = serve.deployment(Entrance).options(
            num_replicas=2 if s.replicas > 1 else 1,
            max_ongoing_requests=4 * s.limits.waiting,
            ray_actor_options={"num_cpus": 0},
            logging_config=quiet,
        )
        held = models.bind(s.open, s.limits.batch, s.wait_ms / 1000)
        try:
            serve.run(entrance.bind(held, s.about, s.limits, s.token), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            try:
                state = serve.status().applications[APPLICATION]
            except Exception:
                state = None
            raise ResourceError(_why(state)) from error


def _why(state: Any) -> str:
    """The sentence for replicas that do not start, with the last line of what they said."""
    said = [d.message for d in state.deployments.values() if d.message] if state else []
    lines = [line.strip() for line in "\n".join(said).splitlines() if line.strip()]
    told = next((x for x in reversed(lines) if "Error" in x or "error" in x), lines[-1] if lines else "")
    why = f" ({told})" if told else ""
    return f"The replicas do not start{why}: mend that and start the same command again."


def _demand_port(host: str, port: int) -> None:
    try:
        bound(host, port).close()
    except OSError as error:
        raise ResourceError(
            f"{host}:{port} cannot be listened at ({error.strerror or error}): give another --port or --host."
        ) from None
