"""CamVid in SegNet's version: 11 classes, one folder a split."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffadapt.core.artifact import IGNORED
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.official import SPLITS, Official
from diffadapt.data.scenes.table import plain_table

CLASSES = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)
"""In SegNet's order; 11 is void."""
_PLAIN = plain_table("camvid", CLASSES, (2, 1, 93, 6, 11, 4, 43, 32, 20, 12, 127))
_SEQUENCES = {"0001TP": 124, "0006R0": 101, "0016E5": 305, "Seq05VD": 171}
"""Frames of each sequence among all 701."""


@dataclass(frozen=True, kw_only=True)
class CamVid(Official):
    """One video sequence or more of it is what recipes read."""

    def published(self, config: SceneConfig, filtered: bool = True) -> int | None:
        if not (filtered and config.sequences):
            return super().published(config, filtered)
        whole = config.split == "all" and all(s in _SEQUENCES for s in config.sequences)
        return sum(_SEQUENCES[s] for s in config.sequences) if whole else None


LAYOUT = CamVid(
    title="CamVid",
    table=replace(
        _PLAIN,
        values=(*_PLAIN.values, 11),
        classes=(*_PLAIN.classes, IGNORED),
        codes=(*_PLAIN.codes, (0, 0, 0)),
    ),
    images="{split}|",
    labels="{split}annot|",
    endings=(".png",),
    label_endings=(".png",),
    unlabelled=(),
    splits=(*SPLITS, "all"),
    counts={"train": {"": 367}, "val": {"": 101}, "test": {"": 233}, "all": {"": 701}},
)
