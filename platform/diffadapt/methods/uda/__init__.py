"""Unsupervised domain adaptation: one file a method (see base.py)."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_METHODS", "uda")
