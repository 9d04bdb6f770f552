"""The table of the inputs that timm's published weights want: ``python -m diffadapt.models.timm_inputs``
writes it anew for the timm that is installed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import timm

from diffadapt.core.files import write_whole
from diffadapt.models.inputs import of_cfg
from diffadapt.models.timm_table import TABLE


def published() -> dict[str, Any]:
    """The version of timm, and the distinct inputs with the names of their weights."""
    inputs: dict[str, dict[str, Any]] = {}
    for name in timm.list_pretrained():
        cfg = timm.get_pretrained_cfg(name)
        values = asdict(of_cfg(cfg.to_dict() if cfg else {}))
        inputs.setdefault(json.dumps(values), {"input": values, "models": []})["models"].append(name)
    return {"timm": timm.__version__, "inputs": list(inputs.values())}


if __name__ == "__main__":
    write_whole(TABLE, json.dumps(published(), indent=1).encode() + b"\n")
