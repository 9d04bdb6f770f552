"""Audits: a few target images that a person labels, and what they say about every row of a run."""
