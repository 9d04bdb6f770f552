"""The name under which recipe files of one's own load other recipes; :mod:`diffadapt.core.recipes` has them."""

from diffadapt.core.recipes import folders, load, read_file, recipes

__all__ = ["folders", "load", "read_file", "recipes"]
