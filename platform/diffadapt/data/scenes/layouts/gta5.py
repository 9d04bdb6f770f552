"""GTA5 (Richter et al. 2016): all frames in one folder, its splits in split.mat or plain lists.

ZoDi's authors score on 1,000 of the 6,382 validation frames, a list without a rule (PODA's, Fahes et al.
2023): ``split_file`` takes it.
"""

from __future__ import annotations

import io
import posixpath
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import DataError
from diffadapt.core.location import locate
from diffadapt.data.reading import is_file, reading
from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.official import SPLITS, Official

AUTHORS_LIST, AUTHORS_FRAMES = "gtav_split_val.txt", 1000
"""The name of ZoDi's list in its authors' repository, and how many frames it names."""


@dataclass(frozen=True, kw_only=True)
class Gta5(Official):
    """Frames are numbered, and lists say which split they belong to."""

    lists: bool = True

    def published(self, config: SceneConfig, filtered: bool = True) -> int | None:
        if not config.split_file:
            return super().published(config, filtered)
        return AUTHORS_FRAMES if posixpath.basename(config.split_file) == AUTHORS_LIST else None

    def frames(self, fs: Any, root: str, config: SceneConfig, images: dict[str, str]) -> dict[str, str]:
        """All frames, or those that ``config.split_file``, or else ``{split}.txt`` or ``split.mat`` in the
        root, names (numbers or file names). Raises DataError where none is there, is unreadable, or names
        frames that are not there (unless ``config.partial``).
        """
        if config.split == "all" and not config.split_file:
            return images
        names = _chosen(fs, root, config.split_file) if config.split_file else _listed(fs, root, config.split)
        absent = sorted(names - set(images))
        if absent and not config.partial:
            said = config.split_file or f"its list of the split {config.split!r}"
            raise DataError(
                f"{config.path} lacks {len(absent):,} frames that {said} names, such as {absent[0]}: unpack"
                " it fully, or allow a partial copy."
            )
        return {scene: name for scene, name in images.items() if scene in names}


LAYOUT = Gta5(
    title="GTA5",
    table=TABLES["gta5"],
    images="images|",
    labels="labels|",
    endings=(".png",),
    label_endings=(".png",),
    unlabelled=(),
    splits=(*SPLITS, "all"),
    counts={"train": {"": 12_403}, "val": {"": 6_382}, "test": {"": 6_181}, "all": {"": 24_966}},
)


def _chosen(fs: Any, root: str, name: str) -> set[str]:
    """The frames that the file ``name``, in the root or anywhere else, lists."""
    inside = posixpath.join(root, name)
    place, path = (fs, inside) if is_file(fs, inside) else _elsewhere(name)
    if not path or not is_file(place, path):
        whose = (
            f" (the {AUTHORS_FRAMES:,} frames that ZoDi's authors score: model_adaptation/datasets/gta5_list"
            " in their repository, azuma164/ZoDi)"
            if posixpath.basename(name) == AUTHORS_LIST
            else ""
        )
        raise DataError(
            f"There is no list of frames {name!r}{whose} in {root} or elsewhere: put it there, give its place"
            " in split_file, or set split_file to '' for the whole split."
        )
    with reading(name):
        data = place.cat_file(path)
    try:
        names = _frames(data)
    except UnicodeDecodeError:
        raise DataError(
            f"The list of frames {name!r} is no text: give one with a frame a line, such as 00042.png."
        ) from None
    if not names:
        raise DataError(f"The list of frames {name!r} is empty: give one with a frame a line.")
    return names


def _elsewhere(name: str) -> tuple[Any, str]:
    """(file system, path on it); no path where ``name`` is none that can be opened."""
    try:
        return locate(name, DataError)
    except (ValueError, ImportError):
        return None, ""


def _listed(fs: Any, root: str, split: str) -> set[str]:
    text, matlab = posixpath.join(root, f"{split}.txt"), posixpath.join(root, "split.mat")
    found = next((path for path in (text, matlab) if is_file(fs, path)), None)
    if found is None:
        raise DataError(
            f"{root} has no list of GTA5's split {split!r}: put the official split.mat or {split}.txt there,"
            " or use the split 'all'."
        )
    with reading(root):
        data = fs.cat_file(found)
    try:
        if found == text:
            return _frames(data)
        from scipy.io import loadmat

        return {_frame(str(int(n))) for n in loadmat(io.BytesIO(data))[f"{split}Ids"].ravel()}
    except Exception as error:  # a damaged file makes SciPy raise nearly any type
        raise DataError(
            f"The split file of GTA5 in {root} cannot be read ({error}): replace split.mat or {split}.txt."
        ) from None


def _frames(text: bytes) -> set[str]:
    return {_frame(posixpath.splitext(posixpath.basename(line))[0]) for line in text.decode().split()}


def _frame(name: str) -> str:
    return name.zfill(5)
