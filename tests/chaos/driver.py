"""One command of diffadapt in a process of its own, which may be told to kill itself in a commit:
``python -m tests.chaos.driver [--toy] <command> ...``. ``--toy``: a runner without torch does the work."""

from __future__ import annotations

import os
import sys

from tests.chaos import killing


def main(argv: list[str]) -> int:
    if not os.environ.get("DIFFADAPT_TEST_RAY"):
        killing.arm()
    from diffadapt import cli

    if argv[0] == "--toy":
        from diffadapt.api import runners
        from tests.chaos.toys import ToyRunner

        runners.make_runner = lambda config: ToyRunner()
        argv = argv[1:]
    print("begun", flush=True)
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
