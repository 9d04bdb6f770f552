"""ImageCLEF-DA (2014)."""

from diffadapt.data.benchmark import Benchmark

CLASSES = tuple("aeroplane bike bird boat bottle bus car dog horse monitor motorbike people".split())
BENCHMARK = Benchmark(
    "imageclef",
    "ImageCLEF-DA",
    ("c", "i", "p"),
    {"c": 600, "i": 600, "p": 600},
    12,
    CLASSES,
    spellings={"c": ("c", "C", "caltech"), "i": ("i", "I", "imagenet"), "p": ("p", "P", "pascal")},
    descriptions={
        "c": "photos of objects",
        "i": "photos of objects from the web",
        "p": "photos of scenes with objects",
    },
)
