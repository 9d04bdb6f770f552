"""The official layouts of driving data sets: where images and label maps lie below a root, paired by name."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.data.readers import FileReader, list_tree, open_location
from diffadapt.data.reading import is_folder
from diffadapt.data.scenes.cityscapes import reading_table
from diffadapt.data.scenes.classes import class_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import Layout
from diffadapt.data.scenes.pairs import by_stem, match
from diffadapt.data.scenes.scene import SceneFiles, SceneItem, SceneSource

SPLITS = ("train", "val", "test")
HINT = "unpack the labels fully, or allow a partial copy."


@dataclass(frozen=True, kw_only=True)
class Official(Layout):
    """A data set whose files lie where its publisher put them.

    In ``images`` and ``labels``, ``{split}`` and ``{condition}`` are filled in, and what stands behind '|'
    belongs to a scene's name.
    """

    title: str
    images: str
    """Folder of a split's images, relative to the root."""
    labels: str
    endings: tuple[str, ...]
    """What image files end with, with the suffix."""
    label_endings: tuple[str, ...]
    """What label files end with; the first that is there counts."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Split -> condition ('' where there are none) -> how many scenes are published."""
    splits: tuple[str, ...] = SPLITS
    unlabelled: tuple[str, ...] = ("test",)
    """Splits of which no truth is published."""
    conditions: tuple[str, ...] = ()
    condition: str = ""
    """What an empty condition means; '': all."""
    unpacked: Mapping[str, str] = field(default_factory=dict)
    """First folders as some archives name them: official name -> other name."""
    colours: str = ""
    """What files of raw colours end with."""
    train_ids: bool = False
    """Label files hold trainIds, whatever they are called."""
    raw_colours: bool = False
    """Label files of labelIds have raw colours, which are painted where there is no file of them."""

    def check(self, config: SceneConfig) -> None:
        for what, value, known in (
            ("split", config.split, self.splits),
            ("condition", config.condition, ("", *self.conditions)),
        ):
            if value not in known:
                names = [n for n in known if n]
                options = (
                    f"give one of {', '.join(names)}.{suggest(value, names)}" if names else "leave it empty."
                )
                raise RecipeError(f"{self.title} has no {what} {value!r}: {options}")

    def published(self, config: SceneConfig, filtered: bool = True) -> int | None:
        counts = self.counts.get(config.split, {})
        condition = (config.condition or self.condition) if self.conditions else ""
        return counts.get(condition) if condition else sum(counts.values()) or None

    def frames(self, fs: Any, root: str, config: SceneConfig, images: dict[str, str]) -> dict[str, str]:
        """The images of ``config.split`` where folders do not tell: scene -> name, a part of ``images``."""
        return images

    def folders(self, form: str, config: SceneConfig) -> list[str]:
        """``form`` for every split and condition of ``config``."""
        splits = [s for s in self.splits if s != "all"] if config.split == "all" else [config.split]
        condition = config.condition or self.condition
        conditions = [condition] if condition else self.conditions or [""]
        return list(dict.fromkeys(form.format(split=s, condition=c) for c in conditions for s in splits))

    def open(self, config: SceneConfig) -> SceneSource:
        """The scenes of one split (and condition), paired by name. Raises DataError for files that are
        missing or, unless ``config.partial``, fewer or more than published."""
        tree = _Tree(self, config)
        listed = tree.scenes(self.images, self.endings, "images")
        images = self.frames(tree.fs, tree.root, config, listed)
        self._check_count(config, len(images))
        truth = bool(config.labels) and config.split not in self.unlabelled
        labels, colours, ending = {}, {}, ""
        if truth:
            for ending in self.label_endings:
                last = ending == self.label_endings[-1]
                labels = tree.scenes(self.labels, (ending,), "label maps", optional=not last)
                if set(labels) & set(images):
                    break
            if self.colours:
                colours = tree.scenes(self.labels, (self.colours,), "colour maps", optional=True)
            if images is not listed:
                labels = {scene: name for scene, name in labels.items() if scene in images}
        if config.sequences:
            images, labels = (_of_sequences(names, config.sequences) for names in (images, labels))
            if not images:
                raise DataError(
                    f"{config.path} has no frames of the sequences {', '.join(config.sequences)} in the split"
                    f" {config.split!r}: correct sequences."
                )
        pairs: Mapping[str, tuple[str, str | None]] = {s: (n, None) for s, n in images.items()}
        if truth:
            pairs = match(images, labels, config.path, partial=config.partial, hint=HINT)
        items = tuple(SceneItem(s, image, label, colours.get(s)) for s, (image, label) in pairs.items())
        table = class_table(config)
        train_ids = self.train_ids or "trainid" in ending.lower()
        used = {name for i in items for name in (i.image, i.label, i.colours) if name is not None}
        reader = SceneFiles(FileReader(tree.fs, tree.root, {name: tree.files[name] for name in used}))
        name = "-".join(part for part in (config.layout, config.condition, config.split) if part)
        reading, painted = reading_table(table, train_ids), self.raw_colours and not train_ids
        return SceneSource(name, items, table, reading, reader, truth, painted)

    def _check_count(self, config: SceneConfig, count: int) -> None:
        wanted = self.published(config, filtered=False)
        if wanted is not None and count != wanted and not config.partial:
            what = " ".join(part for part in (self.title, config.condition, config.split) if part)
            raise DataError(
                f"{config.path} holds {count:,} images of {what}, but {wanted:,} are published: unpack it"
                " fully, or set partial for a part of it."
            )


class _Tree:
    """The files of one data set; ``files``: name (relative to the root, in the official spelling) -> path."""

    def __init__(self, form: Official, config: SceneConfig):
        self.form, self.config = form, config
        self.fs, self.root = open_location(config.path)
        self.files: dict[str, str] = {}

    def scenes(
        self, where: str, endings: tuple[str, ...], what: str, optional: bool = False
    ) -> dict[str, str]:
        """Scene -> name of the files under the folders ``where`` that end so. Raises DataError for folders
        that are missing or hold none, unless ``optional``."""
        folders = self.form.folders(where, self.config)
        lenient = optional or (self.config.partial and len(folders) > 1)
        names: dict[str, str] = {}
        for folder in folders:
            base, _, below = folder.partition("|")
            official = posixpath.join(base, below) if below else base
            for name, path in self._list(official, what, lenient).items():
                if name.endswith(endings):
                    whole = posixpath.join(official, name)
                    names[posixpath.join(below and below.split("/")[0], name)] = whole
                    self.files[whole] = path
        if not names and not optional:
            raise DataError(
                f"{self.root} has no {what} of {self.form.title} (*{endings[0]}) in"
                f" {', '.join(f.replace('|', '/').strip('/') for f in folders)}: unpack it there, or correct"
                " the path and the split."
            )
        stems = tuple(posixpath.splitext(e)[0] for e in endings if posixpath.splitext(e)[0] != e)
        return {scene: names[name] for scene, name in by_stem(names, stems, f"{what} of").items()}

    def _list(self, folder: str, what: str, optional: bool) -> dict[str, str]:
        spellings = [
            other + folder.removeprefix(first)
            for first, other in self.form.unpacked.items()
            if folder == first or folder.startswith(first + "/")
        ]
        try:
            for spelling in (folder, *spellings):
                base = posixpath.join(self.root, spelling)
                if is_folder(self.fs, base):
                    return list_tree(self.fs, base)[1]
        except OSError as error:
            raise DataError(f"{self.root} cannot be listed ({error.strerror or error}).") from None
        if optional:
            return {}
        raise DataError(
            f"{self.root} has no folder {folder}, where {self.form.title} has its {what}: unpack it there, or"
            f" correct the path{', the condition' if self.form.conditions else ''} and the split."
        )


def _of_sequences(names: Mapping[str, str], sequences: Sequence[str]) -> dict[str, str]:
    return {s: name for s, name in names.items() if posixpath.basename(s).startswith(tuple(sequences))}
