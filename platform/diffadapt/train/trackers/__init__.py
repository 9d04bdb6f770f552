"""Where the numbers of fits and runs go: one file a tracker (see base.py)."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_TRACKERS")
