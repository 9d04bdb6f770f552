"""SDA: the recipe type, the paper's settings, its published figures, its part of reports."""

from diffadapt.systems.sda.recipe import CONTROLS, METHODS, SDA

__all__ = ["CONTROLS", "METHODS", "SDA"]
