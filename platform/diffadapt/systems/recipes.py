"""The name under which recipe files of one's own know :mod:`diffadapt.core.recipes`."""

from diffadapt.core.recipes import folders, load, read_file, recipes

__all__ = ["folders", "load", "read_file", "recipes"]
