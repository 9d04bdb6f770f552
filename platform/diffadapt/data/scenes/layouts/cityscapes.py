"""Cityscapes (Cordts et al. 2016): leftImg8bit and gtFine."""

from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.official import Official

LAYOUT = Official(
    title="Cityscapes",
    table=TABLES["cityscapes"],
    images="leftImg8bit/{split}|",
    labels="gtFine/{split}|",
    endings=("_leftImg8bit.png",),
    label_endings=("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"),
    colours="_gtFine_color.png",
    raw_colours=True,
    unpacked={
        "leftImg8bit": "leftImg8bit_trainvaltest/leftImg8bit",
        "gtFine": "gtFine_trainvaltest/gtFine",
    },
    counts={"train": {"": 2975}, "val": {"": 500}, "test": {"": 1525}},
)
