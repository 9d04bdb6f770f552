"""Sections of reports that are found by file; the folders that DIFFADAPT_SECTIONS names are looked into too."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_SECTIONS")
