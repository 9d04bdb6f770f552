"""The name under which recipe files of one's own know :mod:`diffadapt.systems.zodi.detection`."""

from diffadapt.systems.zodi.detection import METHODS, ZodiDetection

__all__ = ["METHODS", "ZodiDetection"]
