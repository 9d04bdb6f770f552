"""Kills, damaged files and twin drivers in numbers: ``python -m tests.chaos`` (platform/docs/chaos.md)."""
