"""Sections of reports, found by file, here and in the folders that DIFFADAPT_SECTIONS names."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_SECTIONS")
