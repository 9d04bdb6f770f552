"""``diffadapt serve``: a finished run's models behind HTTP, answering what ``diffadapt predict`` would."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import RecipeError, ResourceError
from diffadapt.core.listening import address, is_alone
from diffadapt.core.ranges import Between, Natural, NonNegative, Positive, check_limits
from diffadapt.run.runner import ExecutionConfig

TOKEN = "DIFFADAPT_SERVE_TOKEN"
"""The environment variable with the token that requests must bear."""
NEEDED = ("fastapi", "starlette", "uvicorn")


@dataclass(frozen=True)
class ServeOptions(RootOption):
    run: str = "last"
    """The finished run whose models to serve: a name, a prefix, or 'last'."""
    row: str = ""
    """Of SDA: the row of the score table whose models, aligner and level to use, such as "SDA (one step, 1
    call)"; by default SDA's own."""
    aligner: str = ""
    """Of SDA, in place of --row: the row that projects with this aligner, such as one-step."""
    host: str = "127.0.0.1"
    """The address to listen at. One that other machines reach needs a token in DIFFADAPT_SERVE_TOKEN."""
    port: Annotated[int, Between(1, 65535)] = 8000
    replicas: Positive = 1
    """Processes that hold the models, each with one CPU core, or with --execution.gpus-per-actor."""
    batch: Positive = 16
    """Images that a replica takes at a time, from however many requests."""
    batch_wait_ms: NonNegative = 10.0
    """How long it waits for further ones, in milliseconds."""
    max_body_mb: Positive = 32
    """The largest body of a request in MiB."""
    max_images: Positive = 256
    """The most images of one request."""
    max_pixels: Natural = 0
    """The most pixels of one image; 0: DIFFADAPT_MAX_PIXELS or 67,108,864."""
    max_waiting: Positive = 128
    """Requests that may wait at once; further ones get status 503."""
    timeout: Positive = 60
    """Seconds within which a request is answered, else with status 503."""
    execution: ExecutionConfig = ExecutionConfig()
    """Device, threads, object store and cluster; what it says of runs does not matter here."""


def serve(argv: Sequence[str]) -> int:
    from diffadapt.core.redact import redact
    from diffadapt.data.image import MAX_PIXELS_VARIABLE, max_pixels
    from diffadapt.run.door import Limits
    from diffadapt.run.executor import choose_device
    from diffadapt.systems.answers import Opening, row_of, servable
    from diffadapt.systems.predict import Prediction

    options = parse(ServeOptions, argv, "serve")
    check_limits(options)
    _demand_packages()
    token = _token(options.host)
    if options.max_pixels:
        os.environ[MAX_PIXELS_VARIABLE] = str(options.max_pixels)
    root = options.open()
    run = root.run(options.run)
    if options.aligner and options.row:
        raise RecipeError("--aligner and --row both choose a row: give one of them.")
    row = row_of(run, options.aligner) if options.aligner else options.row
    recipe, execution = servable(run, row), options.execution
    device = choose_device(execution.device)
    about = {
        "run": run.name,
        "row": row or ("SDA" if isinstance(recipe, Prediction) else ""),
        "aligner": recipe.project.guidance if isinstance(recipe, Prediction) else "",
        "classes": list(recipe.class_names) or [str(i) for i in range(recipe.num_classes)],
        "limits": {
            "body_mb": options.max_body_mb, "images": options.max_images, "pixels": max_pixels(),
            "waiting": options.max_waiting, "seconds": options.timeout,
        },
    }  # fmt: skip

    from diffadapt.orchestrate.serving import Served, Service

    service = Service(
        about=about,
        open=Opening(
            _everywhere(root.location), run.name, row, device.partition(":")[0], execution.threads or 1
        ),
        host=options.host,
        port=options.port,
        replicas=options.replicas,
        wait_ms=options.batch_wait_ms,
        limits=Limits(
            body_bytes=options.max_body_mb << 20,
            images=options.max_images,
            waiting=options.max_waiting,
            seconds=float(options.timeout),
            batch=options.batch,
        ),
        token=token,
        gpus=0.0 if device == "cpu" else execution.gpus_per_actor,
    )
    print(
        f"{run.name}: {options.replicas} replica{'s' * (options.replicas > 1)} on {device} begin ...",
        flush=True,
    )
    try:
        with Served(service, execution) as served:
            place = address(options.host, options.port)
            print(f"serving   {place}/predict   (healthy: {place}/healthz, ready: {place}/readyz)")
            if where := served.metrics_address():
                print(f"metrics   {where}")
            print(f"try       curl -F image=@photo.jpg {place}/predict")
            print("Ctrl-C ends it.", flush=True)
            served.wait()
    except KeyboardInterrupt:
        print(f"\n{redact(run.name)} is no longer served.")
    return 0


def _demand_packages() -> None:
    lacking = [name for name in ("ray", *NEEDED) if importlib.util.find_spec(name) is None]
    if lacking:
        raise ResourceError(
            f"Serving needs Ray Serve and its packages, and {', '.join(lacking)}"
            f" {'is' if len(lacking) == 1 else 'are'} not installed: pip install 'diffadapt[serve]'."
        )


def _token(host: str) -> str:
    """What requests must bear; RecipeError where it lacks and other machines could ask."""
    token = os.environ.get(TOKEN, "").strip()
    if not is_alone(host) and not token:
        raise RecipeError(
            f"--host {host} lets other machines ask: set {TOKEN} to a token that their requests have to"
            " bear, or use 127.0.0.1."
        )
    return token


def _everywhere(location: str) -> str:
    """A local root as an absolute path: replicas begin in folders of their own."""
    return location if "://" in location else os.path.abspath(location)
