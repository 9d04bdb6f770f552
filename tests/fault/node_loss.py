"""A driver on a cluster of two nodes with a pretended GPU each; one node is killed in the middle of the work."""

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

from diffadapt.orchestrate import pool  # noqa: E402
from diffadapt.orchestrate.runner import RayRunner  # noqa: E402
from diffadapt.run.runner import ExecutionConfig  # noqa: E402
from tests.ray.harness import run  # noqa: E402
from tests.ray.toy import Child, Source, lines, map_pipeline  # noqa: E402


def main() -> None:
    options = json.loads(sys.argv[1])
    pool.WATCH_SECONDS, pool.STRANDED_SECONDS = 0.5, 1.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
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
