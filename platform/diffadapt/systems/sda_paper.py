"""The name under which recipe files of one's own know :mod:`diffadapt.systems.sda.paper`."""

from diffadapt.systems.sda.paper import MODELS, TRANSFORMER_MEMO, sda

__all__ = ["MODELS", "TRANSFORMER_MEMO", "sda"]
