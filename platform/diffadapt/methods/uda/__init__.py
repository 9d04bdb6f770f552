"""Unsupervised domain adaptation: one file a method (see base.py)."""

from diffadapt.methods.discover import extend

extend(__path__, "uda")
