"""Kills, damaged files and twin drivers in numbers: ``python -m tests.chaos`` (see platform/docs/chaos.md)."""
