"""ACDC (Sakaridis et al. 2021): Cityscapes' classes in fog, at night, in rain and snow."""

from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.official import Official

CONDITIONS = ("fog", "night", "rain", "snow")
LAYOUT = Official(
    title="ACDC",
    table=TABLES["acdc"],
    images="rgb_anon|{condition}/{split}",
    labels="gt|{condition}/{split}",
    endings=("_rgb_anon.png",),
    label_endings=("_gt_labelTrainIds.png", "_gt_labelIds.png"),
    conditions=CONDITIONS,
    unpacked={"rgb_anon": "rgb_anon_trainvaltest/rgb_anon", "gt": "gt_trainval/gt"},
    counts={
        "train": dict.fromkeys(CONDITIONS, 400),
        "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
        "test": dict.fromkeys(CONDITIONS, 500),
    },
)
