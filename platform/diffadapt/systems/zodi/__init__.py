"""ZoDi: the recipe types (segmentation, detection), published figures, its part of reports."""

from diffadapt.systems.zodi.detection import ZodiDetection
from diffadapt.systems.zodi.recipe import METHODS, VARIANTS, Zodi

__all__ = ["METHODS", "VARIANTS", "Zodi", "ZodiDetection"]
