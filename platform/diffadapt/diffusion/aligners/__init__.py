"""Aligners: one file each, found by its name (see base.py); DIFFADAPT_ALIGNERS names folders of one's own."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_ALIGNERS")
