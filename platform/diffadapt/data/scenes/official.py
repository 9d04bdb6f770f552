"""Where the files of the usual driving data sets lie: Cityscapes, ACDC, Dark Zurich, BDD100K, GTA5 and
SegNet's CamVid."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.data.folder import FileReader, list_tree
from diffadapt.data.scenes.classes import class_table, reading_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.counts import ACDC_CONDITIONS, published
from diffadapt.data.scenes.gta5 import wanted_frames
from diffadapt.data.scenes.pairs import by_stem, match
from diffadapt.data.scenes.source import SceneFiles, SceneItem, SceneSource, open_location

SPLITS = ("train", "val", "test")
HINT = "unpack the labels fully, or allow a partial copy."


@dataclass(frozen=True)
class Form:
    """The official layout of one data set; the first of several folders or endings that is there counts."""

    title: str
    images: Callable[[SceneConfig], Sequence[str]]
    """Folders of one split's images, in the spellings that the archives unpack to, with '|' before what
    belongs to a scene's name."""
    labels: Callable[[SceneConfig], Sequence[str]]
    endings: tuple[str, ...]
    """What image files end with, with the suffix."""
    label_endings: tuple[str, ...]
    unlabelled: tuple[str, ...] = ("test",)
    """Splits of which no truth is published."""
    splits: tuple[str, ...] = SPLITS
    conditions: tuple[str, ...] = ()
    colours: str = ""
    """What files of raw colours end with."""


def _acdc(root: str) -> Callable[[SceneConfig], list[str]]:
    def folders(config: SceneConfig) -> list[str]:
        conditions = [config.condition] if config.condition else ACDC_CONDITIONS
        return [f"{root}|{condition}/{config.split}" for condition in conditions]

    return folders


FORMS: dict[str, Form] = {
    "cityscapes": Form(
        "Cityscapes",
        lambda c: [f"leftImg8bit/{c.split}|"],
        lambda c: [f"gtFine/{c.split}|"],
        ("_leftImg8bit.png",),
        ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"),
        colours="_gtFine_color.png",
    ),
    "acdc": Form(
        "ACDC",
        _acdc("rgb_anon"),
        _acdc("gt"),
        ("_rgb_anon.png",),
        ("_gt_labelTrainIds.png", "_gt_labelIds.png"),
        conditions=ACDC_CONDITIONS,
    ),
    "dark_zurich": Form(
        "Dark Zurich",
        lambda c: [f"rgb_anon/{c.split}/{c.condition or 'night'}|"],
        lambda c: [f"gt/{c.split}/{c.condition or 'night'}|"],
        ("_rgb_anon.png",),
        ("_gt_labelTrainIds.png", "_gt_labelIds.png"),
        ("train", "test"),
        conditions=("night", "twilight", "day"),
    ),
    "bdd100k": Form(
        "BDD100K",
        lambda c: [f"images/10k/{c.split}|"],
        lambda c: [f"labels/sem_seg/masks/{c.split}|"],
        (".jpg",),
        (".png", "_train_id.png"),
    ),
    "gta5": Form(
        "GTA5", lambda c: ["images|"], lambda c: ["labels|"], (".png",), (".png",), (), (*SPLITS, "all")
    ),
    "camvid": Form(
        "CamVid",
        lambda c: [f"{s}|" for s in _camvid(c)],
        lambda c: [f"{s}annot|" for s in _camvid(c)],
        (".png",),
        (".png",),
        (),
        (*SPLITS, "all"),
    ),
}
_UNPACKED = {
    "leftImg8bit": "leftImg8bit_trainvaltest/leftImg8bit", "gtFine": "gtFine_trainvaltest/gtFine",
    "rgb_anon": "rgb_anon_trainvaltest/rgb_anon", "gt": "gt_trainval/gt",
    "images/10k": "seg/images", "labels/sem_seg/masks": "seg/labels",
}  # fmt: skip
"""Folders as some archives, and BDD100K's first release, name them."""


def _camvid(config: SceneConfig) -> Sequence[str]:
    return SPLITS if config.split == "all" else (config.split,)


def check_names(config: SceneConfig) -> None:
    """RecipeError for a split or condition that the layout does not have; nothing is read."""
    form = FORMS.get(config.layout)
    if form is None:
        return
    for what, value, known in (
        ("split", config.split, form.splits),
        ("condition", config.condition, form.conditions),
    ):
        if value in known or (what == "condition" and not value):
            continue
        options = f"give one of {', '.join(known)}.{suggest(value, known)}" if known else "leave it empty."
        raise RecipeError(f"{form.title} has no {what} {value!r}: {options}")


def open_official(config: SceneConfig) -> SceneSource:
    """The scenes of one split (and condition) in their official layout, paired by name. Raises DataError for
    files that are missing or, unless ``config.partial``, fewer or more than published."""
    form = FORMS[config.layout]
    fs, root = open_location(config.path)
    truth = bool(config.labels) and config.split not in form.unlabelled
    files: dict[str, str] = {}
    images = _scenes(
        fs, root, form.images(config), form.endings, files, form, "images", partial=config.partial
    )
    if config.layout == "gta5":
        images = wanted_frames(fs, root, config, images)
    _check_count(config, form, len(images))
    labels: dict[str, str] = {}
    colours: dict[str, str] = {}
    ending = ""
    if truth:
        for ending in form.label_endings:
            labels = _scenes(
                fs,
                root,
                form.labels(config),
                (ending,),
                files,
                form,
                "label maps",
                partial=config.partial,
                optional=ending != form.label_endings[-1],
            )
            if set(labels) & set(images):
                break
        if form.colours:
            colours = _scenes(
                fs,
                root,
                form.labels(config),
                (form.colours,),
                files,
                form,
                "colour maps",
                partial=config.partial,
                optional=True,
            )
        if config.layout == "gta5":
            labels = {
                scene: name for scene, name in labels.items() if scene in images or config.split == "all"
            }
    if config.sequences:
        images, labels = (_of_sequences(found, config.sequences) for found in (images, labels))
        if not images:
            raise DataError(
                f"{config.path} has no frames of the sequences {', '.join(config.sequences)} in the split"
                f" {config.split!r}: correct sequences."
            )
    pairs = (
        match(images, labels, config.path, partial=config.partial, hint=HINT)
        if truth
        else {s: (n, None) for s, n in images.items()}
    )
    items = tuple(
        SceneItem(scene, image, label, colours.get(scene)) for scene, (image, label) in pairs.items()
    )
    table = class_table(config)
    train_ids = "trainid" in ending.lower() or config.layout == "bdd100k"
    used = {name for i in items for name in (i.image, i.label, i.colours) if name is not None}
    reader = SceneFiles(FileReader(fs, root, {name: files[name] for name in used}))
    name = "-".join(part for part in (config.layout, config.condition, config.split) if part)
    return SceneSource(
        name,
        items,
        table,
        reading_table(table, train_ids),
        reader,
        truth,
        config.layout == "cityscapes" and not train_ids,
    )


def _scenes(
    fs: Any,
    root: str,
    folders: Sequence[str],
    endings: tuple[str, ...],
    files: dict[str, str],
    form: Form,
    what: str,
    *,
    partial: bool,
    optional: bool = False,
) -> dict[str, str]:
    """Scene -> name (relative to the root, in the official spelling) of the files under ``folders`` that end
    so; their paths go to ``files``."""
    found: dict[str, str] = {}
    for folder in folders:
        base, _, below = folder.partition("|")
        official = posixpath.join(base, below) if below else base
        for name, path in _tree(
            fs, root, official, form, what, optional or (partial and len(folders) > 1)
        ).items():
            if name.endswith(endings):
                found[posixpath.join(below and below.split("/")[0], name)] = posixpath.join(official, name)
                files[posixpath.join(official, name)] = path
    if not found and not optional:
        raise DataError(
            f"{root} has no {what} of {form.title} (*{endings[0]}) in"
            f" {', '.join(f.replace('|', '/').strip('/') for f in folders)}: unpack it there, or correct the"
            " path and the split."
        )
    stems = by_stem(
        found, tuple(posixpath.splitext(e)[0] for e in endings if posixpath.splitext(e)[0] != e), f"{what} of"
    )
    return {scene: found[name] for scene, name in stems.items()}


def _tree(fs: Any, root: str, folder: str, form: Form, what: str, optional: bool) -> dict[str, str]:
    spellings = [
        folder,
        *(
            other + folder.removeprefix(first)
            for first, other in _UNPACKED.items()
            if folder == first or folder.startswith(first + "/")
        ),
    ]
    try:
        for spelling in spellings:
            base = posixpath.join(root, spelling)
            if fs.isdir(base):
                return list_tree(fs, base)[1]
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror or error}).") from None
    if optional:
        return {}
    raise DataError(
        f"{root} has no folder {folder}, where {form.title} has its {what}: unpack it there, or correct the"
        f" path{', the condition' if form.conditions else ''} and the split."
    )


def _of_sequences(found: dict[str, str], sequences: Sequence[str]) -> dict[str, str]:
    return {
        scene: name for scene, name in found.items() if posixpath.basename(scene).startswith(tuple(sequences))
    }


def _check_count(config: SceneConfig, form: Form, count: int) -> None:
    wanted = published(config, filtered=False)
    if wanted is not None and count != wanted and not config.partial:
        what = " ".join(part for part in (form.title, config.condition, config.split) if part)
        raise DataError(
            f"{config.path} holds {count:,} images of {what}, but {wanted:,} are published: unpack it fully,"
            " or set partial for a part of it."
        )
