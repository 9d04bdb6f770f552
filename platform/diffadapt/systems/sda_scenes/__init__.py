"""SDA for segmenters: the recipe type, its part of reports."""

from diffadapt.core.functions import lazily

__getattr__ = lazily(__name__, {"recipe": ("CONTROLS", "METHODS", "SDASegmentation")})
