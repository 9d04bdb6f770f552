"""SDA: the recipe type, the paper's settings, its published figures, its part of reports."""

from diffadapt.core.functions import lazily

__getattr__ = lazily(__name__, {"recipe": ("CONTROLS", "METHODS", "SDA")})
