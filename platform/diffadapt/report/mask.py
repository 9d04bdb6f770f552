"""Masking of credentials in everything that a report prints: what is stored is masked in the same way, but
runs of older versions may hold more."""

from __future__ import annotations

from diffadapt.core.redact import HIDDEN
from diffadapt.core.redact import scrub as masked

__all__ = ["HIDDEN", "masked"]
