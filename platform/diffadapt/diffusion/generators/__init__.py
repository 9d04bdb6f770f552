"""Generators: one file each, found by its name (see base.py); DIFFADAPT_GENERATORS names more folders."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_GENERATORS")
