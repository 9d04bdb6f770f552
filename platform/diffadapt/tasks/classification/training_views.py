"""What adaptation reads in a fit stage: the rows of a domain, images or cached features, as views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from diffadapt.core.artifact import Failure, Rows
from diffadapt.core.errors import DataError
from diffadapt.core.stage import InputFile
from diffadapt.models.config import BackboneConfig
from diffadapt.train.views import Views


def load_views(
    files: Sequence[InputFile],
    read: Callable[[InputFile], Rows],
    backbone: BackboneConfig,
    augment: str,
    flip: bool,
    keep: Collection[str] | None = None,
    what: str = "",
) -> tuple[Views, list[Failure]]:
    """The views of ``files`` in order and what could not be read: cached features if ``backbone.frozen``,
    else images.

    ``keep``: only the items of these keys. Raises DataError when nothing is left; ``what`` ('target') says of
    which images.
    """
    if backbone.frozen:
        from diffadapt.tasks.classification.feature_table import load_features

        features = load_features(files, read, keep)
        return features, features.failures
    from diffadapt.models.preprocess import normalise
    from diffadapt.stages.image_table import load_keyed_images
    from diffadapt.tasks.classification.augment_views import make_views, preparation
    from diffadapt.train.views import ImageViews

    images, labels, keys, failures = load_keyed_images(
        files, read, backbone.in_channels, preparation(augment, backbone), keep
    )
    if not keys:
        why = f"; the first: {failures[0].key}: {failures[0].reason}" if failures else ""
        raise DataError(
            f"There are no readable {what + ' ' if what else ''}images to train on: every one is unreadable"
            f" or was filtered out{why}."
        )
    return (
        ImageViews(
            images, labels, keys, make_views(augment, backbone, flip), lambda x: normalise(x, backbone)
        ),
        failures,
    )
