"""On PYTHONPATH of the Ray drivers: what Ray starts can kill itself too."""

import os

if os.environ.get("DIFFADAPT_TEST_KILL"):
    from tests.chaos.killing import arm

    arm()
