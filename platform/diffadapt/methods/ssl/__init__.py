"""Semi-supervised learning: one file a method (see base.py)."""

from diffadapt.methods.discover import extend

extend(__path__, "ssl")
