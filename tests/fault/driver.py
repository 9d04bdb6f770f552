"""A driver in a process of its own, for tests that kill it: runs the toy pipeline named by its JSON
argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from diffadapt.orchestrate.runner import RayRunner
from diffadapt.run.runner import ExecutionConfig
from tests.ray.harness import run
from tests.ray.toy import Child, Regress, Source, fit_pipeline, map_pipeline


def pipeline(options: dict):
    log, sleep = options["log"], options.get("sleep", 0.0)
    if options.get("fit"):
        return fit_pipeline(Source(shards=2), Regress(steps=options["fit"], sleep=sleep, side_log=log))
    return map_pipeline(
        Source(shards=options["shards"], sleep=sleep, side_log=log), Child(sleep=sleep / 2, side_log=log)
    )


def main() -> None:
    options = json.loads(sys.argv[1])
    runner = RayRunner(ExecutionConfig(**{"device": "cpu", "actors": 2, **options.get("execution", {})}))
    try:
        runner.prepare()
        outcome = run(pipeline(options), Path(options["root"]), runner)
    finally:
        runner.close()
    print(json.dumps({"made": outcome.made(), "failed": [r.error for r in outcome.failed()]}))


if __name__ == "__main__":
    main()
