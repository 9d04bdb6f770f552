"""A driver on a cluster whose nodes pretend to have GPUs and are lost in the middle of the work.

Without an address: two nodes are started here, and one is killed. With one: the cluster is the test's
(tests/fault/nodes.py), and so is the killing; the work is done once undisturbed and once more, each time into
a new store.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

from ray.cluster_utils import Cluster  # noqa: E402

from diffadapt.core.pipeline import Node, Pipeline  # noqa: E402
from diffadapt.orchestrate import pool  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.runner import ExecutionConfig  # noqa: E402
from tests.ray.harness import run  # noqa: E402
from tests.ray.toy import Child, Regress, Source, lines, map_pipeline  # noqa: E402

TIMES = ("quiet", "disturbed")


def chains_and_fits(
    log: str, shards: int, sleep: float, fits: int, steps: int, step_seconds: float
) -> Pipeline:
    """Shards with children, then ``fits`` fits that need both."""
    made = map_pipeline(
        Source(shards=shards, sleep=sleep, side_log=log), Child(sleep=sleep / 4, side_log=log)
    ).nodes
    return Pipeline(
        (
            *made,
            *(
                Node(
                    f"fit-{i}",
                    Regress(name=str(i), steps=steps, sleep=step_seconds, side_log=log),
                    ("source", "child"),
                )
                for i in range(fits)
            ),
        )
    )


def twice(options: dict) -> None:
    """The same work undisturbed and disturbed; a line of JSON after each."""
    root = Path(options["root"])
    for name in TIMES:
        runner = RayRunner(ExecutionConfig(**options["execution"]))
        start = time.time()
        try:
            runner.prepare()
            outcome = run(chains_and_fits(f"{root}/{name}.log", **options["work"]), root / name, runner)
        finally:
            runner.close()
        print(
            json.dumps(
                {
                    "name": name,
                    "seconds": time.time() - start,
                    "made": len(outcome.made()),
                    "failed": [r.error for r in outcome.failed()],
                }
            ),
            flush=True,
        )


def swept(options: dict) -> None:
    """The same sweep twice; a line of JSON with its results after each."""
    from diffadapt.core.runs import Root
    from diffadapt.orchestrate.tune import TuneFan
    from diffadapt.run.sweep import SweepRequest, run_sweep
    from diffadapt.sweeps.space import Choice, Space
    from tests.ray.sweeptoy import Draw, LearnConfig, SweepToy, ToyRunner

    root, config = Path(options["root"]), ExecutionConfig(**options["execution"])
    space = Space({"learn.threshold": Choice(*options["thresholds"])})
    for name in TIMES:
        notes = root / f"{name}-notes"
        notes.mkdir()
        recipe = SweepToy(
            Draw(side_log=f"{notes}/log"), LearnConfig(sleep=options["sleep"], folder=str(notes))
        )
        start = time.time()
        sweep = run_sweep(
            SweepRequest("toy", space, {"toy": recipe}),
            Root(str(root / name)),
            config,
            lambda execution: ToyRunner(),
            lambda execution: TuneFan(execution, ToyRunner),
            lambda sentence: None,
        )
        results = [[r.values["learn.threshold"], r.status, r.objective, r.error] for r in sweep.results()]
        print(
            json.dumps(
                {
                    "name": name,
                    "seconds": time.time() - start,
                    "results": sorted(results),
                    "failed": [r.error for r in sweep.results() if r.error],
                }
            ),
            flush=True,
        )


def main() -> None:
    options = json.loads(sys.argv[1])
    if "thresholds" in options:
        swept(options)
        return
    if "execution" in options:
        twice(options)
        return
    pool.WATCH_SECONDS, pool.STRANDED_SECONDS = 0.5, 1.0
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20}
    )
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    cluster.wait_for_nodes()
    runner = RayRunner(ExecutionConfig(address=cluster.address, device="cuda", actors=2))
    runner.prepare()
    raylet = nodes[1].all_processes["raylet"][0].process.pid

    def kill_node() -> None:
        while len({pid for _, _, pid, _ in lines(options["log"])}) < 2 or len(lines(options["log"])) < 6:
            time.sleep(0.02)
        os.kill(raylet, signal.SIGKILL)

    killer = threading.Thread(target=kill_node, daemon=True)
    killer.start()
    pipeline = map_pipeline(
        Source(shards=options["shards"], sleep=0.3, side_log=options["log"]), Child(side_log=options["log"])
    )
    outcome = run(pipeline, Path(options["root"]), runner)
    runner.close()
    cluster.shutdown()
    print(json.dumps({"killed": not killer.is_alive(), "failed": [r.error for r in outcome.failed()]}))


if __name__ == "__main__":
    main()
