"""A user's own folder of images and label maps, paired by relative path without suffix."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from diffadapt.core.errors import DataError
from diffadapt.data.readers import FileReader, open_location, source_name
from diffadapt.data.scenes.cityscapes import names_tell, reading_table
from diffadapt.data.scenes.classes import reading_classes
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import Layout
from diffadapt.data.scenes.pairs import IMAGE_ENDINGS, LABEL_ENDINGS, by_stem, image_files, inside, match
from diffadapt.data.scenes.scene import SceneFiles, SceneItem, SceneSource

HINT = (
    "add the label maps under the same names, or set labels to '' where there is no truth, or allow a partial"
    " copy."
)


@dataclass(frozen=True)
class FolderScenes(Layout):
    """Two folders of any depth."""

    def open(self, config: SceneConfig) -> SceneSource:
        return open_folder(config)


LAYOUT = FolderScenes("a folder")


def open_folder(config: SceneConfig) -> SceneSource:
    """``{path}/{images}`` and ``{path}/{labels}``, folders of any depth. Files are paired by relative path
    without suffix; where those do not fit, the usual endings of file names (_leftImg8bit, _gtFine_labelIds,
    _mask, ...) are left out first. Raises DataError.
    """
    fs, root = open_location(config.path)
    images = image_files(fs, root, config.images, f"{config.path}: the images")
    labels = image_files(fs, root, config.labels, f"{config.path}: the label maps") if config.labels else {}
    nested = config.labels and images.keys() & labels.keys()
    if nested:
        raise DataError(
            f"{config.path} has images and label maps in one folder ({next(iter(nested))} is both): give two"
            " folders in images and labels."
        )
    table = reading_classes(config)
    reader = SceneFiles(FileReader(fs, root, {**images, **labels}))
    if not config.labels:
        plain = by_stem(_below(images, config.images), (), "an image of the scene")
        items = tuple(SceneItem(scene, inside(config.images, name)) for scene, name in plain.items())
        return SceneSource(source_name(root), items, table, table, reader, labelled=False)
    pairs = _pair(_below(images, config.images), _below(labels, config.labels), config)
    items = tuple(
        SceneItem(
            scene, inside(config.images, image), None if label is None else inside(config.labels, label)
        )
        for scene, (image, label) in pairs.items()
    )
    return SceneSource(source_name(root), items, table, reading_table(table, names_tell(labels)), reader)


def _pair(
    images: dict[str, str], labels: dict[str, str], config: SceneConfig
) -> dict[str, tuple[str, str | None]]:
    """Pairs by names as they are, or else without the labels' endings, or else without both kinds' endings:
    the first way that fits most."""
    best: tuple[dict[str, str], dict[str, str]] | None = None
    for ours, theirs in (((), ()), ((), LABEL_ENDINGS), (IMAGE_ENDINGS, LABEL_ENDINGS)):
        if best is not None and best[0].keys() == best[1].keys():
            break
        try:
            found = (
                by_stem(images, ours, "an image of the scene"),
                by_stem(labels, theirs, "a label map of the scene"),
            )
        except DataError:
            if best is None or not best[0].keys() & best[1].keys():
                raise
            continue
        if best is None or len(found[0].keys() & found[1].keys()) > len(best[0].keys() & best[1].keys()):
            best = found
    assert best is not None
    return match(*best, config.path, partial=config.partial, hint=HINT)


def _below(files: dict[str, str], folder: str) -> dict[str, str]:
    return {posixpath.relpath(name, posixpath.normpath(folder)): path for name, path in files.items()}
