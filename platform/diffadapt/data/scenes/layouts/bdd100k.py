"""BDD100K's 10k images with semantic label maps (Yu et al. 2020)."""

from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.official import Official

LAYOUT = Official(
    title="BDD100K",
    table=TABLES["bdd100k"],
    images="images/10k/{split}|",
    labels="labels/sem_seg/masks/{split}|",
    endings=(".jpg",),
    label_endings=(".png", "_train_id.png"),
    train_ids=True,
    unpacked={"images/10k": "seg/images", "labels/sem_seg/masks": "seg/labels"},
    counts={"train": {"": 7000}, "val": {"": 1000}, "test": {"": 2000}},
)
