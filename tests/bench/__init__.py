"""Benchmarks: ``python -m tests.bench [names] [--json FILE]``. They print what they measure and judge nothing
by exit status."""
