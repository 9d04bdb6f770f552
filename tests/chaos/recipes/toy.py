"""Recipes of the chaos tests."""

from tests.chaos.toys import ChaosToy


def recipe():
    """Without torch, in a second."""
    return ChaosToy()
