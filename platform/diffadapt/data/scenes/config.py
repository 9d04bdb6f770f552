"""What scenes to read: street scenes with label maps or boxes, in the official layouts or a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffadapt.core.config import added
from diffadapt.core.ranges import Natural, Positive
from diffadapt.data.scenes.layouts import layout_names

if TYPE_CHECKING:
    Layout = str
else:
    Layout = Literal[layout_names()]


@dataclass(frozen=True)
class SceneConfig:
    """Scenes with label maps (or boxes), images and labels paired by their names, never by their order."""

    path: str = ""
    """The data set's root folder; for 'parquet' a file or folder; for 'streets' ``embedded:streets``. Any
    fsspec location."""
    layout: Layout = "folder"
    """folder: ``images`` and ``labels`` below the root, paired by relative path without suffix; parquet:
    columns ``image`` and ``annotation`` (struct<bytes, path>); coco: ``images`` and an instances JSON
    (``labels``); streets: procedural scenes, 64x64."""
    split: str = "train"
    """train, val or test, as the data set names it; GTA5 and CamVid also have all. Not used by folder,
    parquet and coco."""
    split_file: str = added("")
    """GTA5: a text file of frames, one a line (00042.png, or 42), that are taken instead of the split's; its
    place in the root, or any location. Empty: the split's own list."""
    condition: str = ""
    """ACDC: fog, night, rain or snow; Dark Zurich: night, twilight or day; streets: a condition of
    worlds/streets/scenes.py; empty: all (Dark
    Zurich: night; streets: day)."""
    sequences: tuple[str, ...] = ()
    """CamVid: only frames whose name starts with one of these ('0006R0'); parquet: only rows of these
    sequences."""
    images: str = "images"
    """folder: sub-folder of the images; coco: likewise."""
    labels: str = "labels"
    """folder: sub-folder of the label PNGs; coco: the instances JSON, relative to the root. Empty, in any
    layout: no truth is read."""
    classes: str = ""
    """A class table (CSV: value, name, red, green, blue; ``ignore`` as a name leaves a value out) or the name
    of a built-in one (cityscapes, camvid, streets, ...); empty: the layout's own (folder, parquet:
    ``classes.csv`` in the root; coco: its categories)."""
    size: tuple[Natural, Natural] = (0, 0)
    """(height, width) that images (area) and label maps (nearest) are brought to when read; (0, 0): as they
    are."""
    only_size: tuple[Natural, Natural] = (0, 0)
    """(height, width): leave other images out, as the authors' ACDC evaluation does with (1080, 1920); (0,
    0): all."""
    limit: Positive | None = None
    """Only so many images, evenly spread over the sorted names."""
    partial: bool = False
    """Accept other counts than the published ones of an official layout; in every layout, label maps without
    an image, and images without a label map, which are then set apart one by one."""
    fingerprint: Literal["auto", "content", "size"] = "auto"
    block: Positive = 32
    """Images a shard."""
