"""Benchmarks of domain adaptation: one file each; DIFFADAPT_BENCHMARKS names more folders."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_BENCHMARKS")
