"""Layouts of scenes that are drawn, not read; data/scenes/layouts finds them."""
