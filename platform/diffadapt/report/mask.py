"""Masking of credentials in everything that a report prints: by field name, in URLs, and by the form of known
tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffadapt.core.store import redact

HIDDEN = "***"
_FIELD = re.compile(
    r"(?i)(^|[_.-])(secret|token|password|passwd|credentials?|api_?key|access_?key|private_?key)([_.-]|$)"
)
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|A[KS]IA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,})\b|(?<=Bearer"
    r" )\S+"
)


def masked(value: Any, name: str = "") -> Any:
    """``value`` (a JSON value) with secrets replaced by ``***``; ``name`` is the field that holds it."""
    if isinstance(value, Mapping):
        return {str(k): masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(v, name) for v in value]
    if value not in (None, "") and not isinstance(value, bool) and _FIELD.search(name):
        return HIDDEN
    return _TOKEN.sub(HIDDEN, redact(value)) if isinstance(value, str) else value
