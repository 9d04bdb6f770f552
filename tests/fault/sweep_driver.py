"""A sweep of the toy recipe on Ray Tune in a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import sys

from diffadapt.core.interrupts import Interrupts
from diffadapt.core.runs import Root
from diffadapt.orchestrate.tune import TuneFan
from diffadapt.run.runner import ExecutionConfig
from diffadapt.run.sweep import SweepRequest, run_sweep
from diffadapt.sweeps.space import Choice, Space
from tests.ray.sweeptoy import Draw, LearnConfig, SweepToy, ToyRunner


def main() -> int:
    options = json.loads(sys.argv[1])
    folder = options["folder"]
    recipe = SweepToy(
        draw=Draw(side_log=f"{folder}/log"), learn=LearnConfig(folder=folder, sleep=options["sleep"])
    )
    space = Space({"draw.guidance": Choice(1.0, 2.0), "learn.threshold": Choice(0.1, 0.2, 0.3)})
    config = ExecutionConfig(device="cpu", actors=2)
    try:
        with Interrupts():
            run_sweep(
                SweepRequest("toy", space, {"toy": recipe}),
                Root(options["root"]),
                config,
                ToyRunner,
                lambda e: TuneFan(e, ToyRunner),
                lambda line: print(line, flush=True),
            )
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
