"""Image files and label files listed, and brought together by their names, never by the order in which a
folder lists them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from diffadapt.core.errors import DataError
from diffadapt.data.labels import some
from diffadapt.data.readers import SUFFIXES, list_tree
from diffadapt.data.reading import is_folder

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


def by_stem(files: Iterable[str], endings: tuple[str, ...], what: str) -> dict[str, str]:
    """Scene (relative path without suffix and without one of ``endings``) -> relative name of its file.
    Raises DataError for two files of one scene."""
    result: dict[str, str] = {}
    for name in sorted(files):
        scene = stem(name, endings)
        if scene in result:
            raise DataError(f"{result[scene]} and {name} are both {what} {scene!r}: keep one of them.")
        result[scene] = name
    return result


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


def image_files(fs: Any, root: str, folder: str, what: str) -> dict[str, str]:
    """Image files under ``root/folder`` as name relative to ``root`` -> path. Raises DataError for a folder
    that is missing or empty."""
    base = posixpath.normpath(posixpath.join(root, folder))
    if base != root and not base.startswith(root.rstrip("/") + "/"):
        raise DataError(
            f"{what} are to lie in {folder!r}, which leads out of the data set's folder: give a sub-folder."
        )
    try:
        if not is_folder(fs, base):
            raise DataError(
                f"{what} are to lie in the folder {folder!r}, which does not exist: correct the path or the"
                " name of the folder."
            )
        files = {
            name: path for name, path in list_tree(fs, base)[1].items() if name.lower().endswith(SUFFIXES)
        }
    except OSError as error:
        raise DataError(
            f"{what} cannot be listed ({error.strerror or error}): check the folder {folder!r}."
        ) from None
    if not files:
        raise DataError(
            f"{what} are to lie in the folder {folder!r}, which holds no image files ({', '.join(SUFFIXES)})."
        )
    return {inside(folder, name): path for name, path in files.items()}


def inside(folder: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(folder, name))
