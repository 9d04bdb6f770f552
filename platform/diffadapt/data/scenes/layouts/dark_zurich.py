"""Dark Zurich (Sakaridis et al. 2019), of which only the validation images at night have truth."""

from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.official import Official

LAYOUT = Official(
    title="Dark Zurich",
    table=TABLES["dark_zurich"],
    images="rgb_anon/{split}/{condition}|",
    labels="gt/{split}/{condition}|",
    endings=("_rgb_anon.png",),
    label_endings=("_gt_labelTrainIds.png", "_gt_labelIds.png"),
    unlabelled=("train", "test"),
    conditions=("night", "twilight", "day"),
    condition="night",
    unpacked={"rgb_anon": "rgb_anon_trainvaltest/rgb_anon", "gt": "gt_trainval/gt"},
    counts={
        "train": {"day": 3041, "twilight": 2920, "night": 2416},
        "val": {"night": 50},
        "test": {"night": 151},
    },
)
