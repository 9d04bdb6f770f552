"""GTA5 (Richter et al. 2016): all frames in one folder, its splits in split.mat or plain lists."""

from __future__ import annotations

import io
import posixpath
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import DataError
from diffadapt.data.reading import is_file
from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.official import SPLITS, Official


@dataclass(frozen=True, kw_only=True)
class Gta5(Official):
    """Frames are numbered, and lists say which split they belong to."""

    def frames(self, fs: Any, root: str, config: SceneConfig, images: dict[str, str]) -> dict[str, str]:
        """All frames, or those that ``{split}.txt`` or ``split.mat`` in the root names (numbers or file
        names). Raises DataError where neither is there, is unreadable, or names frames that are not there
        (unless ``config.partial``).
        """
        if config.split == "all":
            return images
        names = _listed(fs, root, config.split)
        absent = sorted(names - set(images))
        if absent and not config.partial:
            raise DataError(
                f"{config.path} lacks {len(absent):,} frames that its list of the split {config.split!r}"
                f" names, such as {absent[0]}: unpack it fully, or allow a partial copy."
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


def _listed(fs: Any, root: str, split: str) -> set[str]:
    text, matlab = posixpath.join(root, f"{split}.txt"), posixpath.join(root, "split.mat")
    try:
        if is_file(fs, text):
            lines = fs.cat_file(text).decode().split()
            return {_frame(posixpath.splitext(posixpath.basename(line))[0]) for line in lines}
        if is_file(fs, matlab):
            from scipy.io import loadmat

            numbers = loadmat(io.BytesIO(fs.cat_file(matlab)))[f"{split}Ids"]
            return {_frame(str(int(n))) for n in numbers.ravel()}
    except Exception as error:  # a damaged file makes SciPy raise nearly any type
        raise DataError(
            f"The split file of GTA5 in {root} cannot be read ({error}): replace split.mat or {split}.txt."
        ) from None
    raise DataError(
        f"{root} has no list of GTA5's split {split!r}: put the official split.mat or {split}.txt there, or"
        " use the split 'all'."
    )


def _frame(name: str) -> str:
    return name.zfill(5)
