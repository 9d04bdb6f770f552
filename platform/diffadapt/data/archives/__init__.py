"""Kinds of archives whose members are read in place: one file each (see base.py); DIFFADAPT_ARCHIVES names
more folders."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_ARCHIVES")
