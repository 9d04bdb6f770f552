"""ZoDi: the recipe types (segmentation, detection), published figures, its part of reports."""

from diffadapt.core.functions import lazily

__getattr__ = lazily(__name__, {"recipe": ("METHODS", "VARIANTS", "Zodi"), "detection": ("ZodiDetection",)})
