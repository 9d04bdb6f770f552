"""Image files and label files brought together by their names, never by the order in which a folder lists
them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from diffadapt.core.errors import DataError
from diffadapt.data.labels import some

IMAGE_ENDINGS = ("_leftImg8bit", "_rgb_anon", "_image", "_img", "_rgb")
LABEL_ENDINGS = (
    "_gtFine_labelTrainIds",
    "_gtFine_labelIds",
    "_gtCoarse_labelIds",
    "_gt_labelTrainIds",
    "_gt_labelIds",
    "_labelTrainIds",
    "_labelIds",
    "_train_id",
    "_annotation",
    "_labels",
    "_label",
    "_masks",
    "_mask",
    "_seg",
    "_gt",
    "_L",
)
"""Endings of file names that say what a file is, in the usual data sets: what is before them names the scene.
"""


def by_stem(files: Mapping[str, str], endings: tuple[str, ...], what: str) -> dict[str, str]:
    """Scene (relative path without suffix and without one of ``endings``) -> relative name of its file.
    Raises DataError for two files of one scene."""
    found: dict[str, str] = {}
    for name in sorted(files):
        scene = stem(name, endings)
        if scene in found:
            raise DataError(f"{found[scene]} and {name} are both {what} {scene!r}: keep one of them.")
        found[scene] = name
    return found


def stem(name: str, endings: tuple[str, ...]) -> str:
    """A relative path without its suffix and without the longest of ``endings`` that it has."""
    path = posixpath.splitext(name)[0]
    for ending in sorted(endings, key=len, reverse=True):
        if path.endswith(ending) and posixpath.basename(path) != ending:
            return path.removesuffix(ending)
    return path


def match(
    images: Mapping[str, str], labels: Mapping[str, str], where: str, *, partial: bool, hint: str
) -> dict[str, tuple[str, str | None]]:
    """Scene -> (image, label). Unless ``partial``, DataError naming images without a label, or labels without
    an image; with it the former have None, so that each is set apart when it is read, and the latter are left
    out."""
    lost = sorted(set(images) - set(labels))
    if lost and (not partial or len(lost) == len(images)):
        raise DataError(
            f"{where} holds {len(lost):,} image{'s' if len(lost) > 1 else ''} without a label map, such as"
            f" {some([images[s] for s in lost], 3)}: {hint}"
        )
    orphans = sorted(set(labels) - set(images))
    if orphans and not partial:
        raise DataError(
            f"{where} holds {len(orphans):,} label map{'s' if len(orphans) > 1 else ''} without an image,"
            f" such as {some([labels[s] for s in orphans], 3)}: add the images, or allow a partial copy."
        )
    return {scene: (images[scene], labels.get(scene)) for scene in sorted(images)}
