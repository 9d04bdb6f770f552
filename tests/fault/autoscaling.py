"""A driver on a head that has no CPU and no GPU and whose autoscaler can start nodes with a pretended GPU.

Prints what it sees as lines of JSON: the living workers with the seconds since the start, at each change,
until they are gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

from diffadapt.core.errors import ResourceError  # noqa: E402
from diffadapt.orchestrate.capacity import POSSIBLE, cluster_nodes, living_nodes  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.runner import ExecutionConfig  # noqa: E402
from tests.fault.node_loss import chains_and_fits  # noqa: E402
from tests.ray.harness import run  # noqa: E402


def say(**content: object) -> None:
    print(json.dumps(content), flush=True)


def refused(address: str, **request: object) -> None:
    start = time.monotonic()
    runner = RayRunner(ExecutionConfig(address=address, **request))
    try:
        runner.prepare()
        say(what="refused", request=request, error=None)
    except ResourceError as error:
        say(what="refused", request=request, error=str(error), seconds=time.monotonic() - start)
    finally:
        runner.close()


def main() -> None:
    options = json.loads(sys.argv[1])
    address, root = options["address"], Path(options["root"])
    nodes = cluster_nodes(address)
    say(
        what="nodes",
        living=sum(POSSIBLE not in n for n in nodes),
        possible=[n["GPU"] for n in nodes if POSSIBLE in n],
    )
    refused(address, actors=3)
    refused(address, gpus_per_actor=2)
    refused(address, train_workers=3)
    runner = RayRunner(ExecutionConfig(address=address))
    runner.prepare()
    start, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        seen = None
        while not ended.is_set():
            if (count := len(living_nodes()) - 1) != seen:
                seen = count
                say(what="workers", count=count, seconds=round(time.monotonic() - start, 1))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    outcome = run(chains_and_fits(f"{root}/log", **options["work"]), root / "store", runner)
    say(
        what="done",
        device=runner.config.device,
        failed=[r.error for r in outcome.failed()],
        seconds=round(time.monotonic() - start, 1),
    )
    end = time.monotonic() + 60
    while len(living_nodes()) > 1 and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.3)
    ended.set()
    watcher.join()
    runner.close()


if __name__ == "__main__":
    main()
