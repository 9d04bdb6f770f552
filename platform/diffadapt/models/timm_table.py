"""The weights that timm publishes and the inputs that they want, as ``python -m
diffadapt.models.timm_inputs`` wrote them: asking timm itself takes seconds, since it imports torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.foreign import parse

TABLE = Path(__file__).with_name("timm_inputs.json")


@functools.cache
def table() -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """The version of timm, and the input (fields of models/inputs.Inputs) by the name of the weights."""
    values = parse(TABLE.read_bytes())
    return values["timm"], {name: one["input"] for one in values["inputs"] for name in one["models"]}
