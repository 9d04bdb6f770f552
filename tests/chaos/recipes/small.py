"""Recipes of the chaos tests."""

from dataclasses import replace

from tests.tiny import tiny_sda


def recipe():
    """A classifier is trained with many checkpoints, and predicts on two corruptions."""
    full = tiny_sda()
    return replace(
        full,
        methods=("source",),
        controls=(),
        target=replace(full.target, data=replace(full.target.data, limit_per_class=1, block=4)),
        classifier_fit=replace(full.classifier_fit, checkpoint_every=2),
    )
