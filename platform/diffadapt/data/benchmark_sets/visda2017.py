"""VisDA-2017 (Peng et al. 2017)."""

from diffadapt.data.benchmark import Benchmark

CLASSES = tuple(
    "aeroplane bicycle bus car horse knife motorcycle person plant skateboard train truck".split()
)
BENCHMARK = Benchmark(
    "visda2017",
    "VisDA-2017",
    ("train", "validation"),
    {"train": 152_397, "validation": 55_388},
    12,
    CLASSES,
    metric="class_mean",
    only=(("train", "validation"),),
    descriptions={
        "train": "rendered 3D models",
        "validation": "photos of vehicles, animals, people and things, cut out of larger scenes",
    },
    note="Results are on the validation images, as published ones are; the score is the mean of the"
    " classes' accuracies.",
)
