"""diffadapt: adapt a vision model to a domain without labels, with diffusion models supplying the data."""

__version__ = "0.1.0"

from diffadapt.core import moved

moved.install()
