"""Benchmarks of unsupervised domain adaptation: their domains, classes, published counts, and where their
files lie.

Labels are positions in the class names, and names come from class folders (or a class_name column), never
from the numbers in image lists, whose order differs between public tools. Counts are checked against the
published ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffadapt.core.errors import RecipeError, suggest

TEST = "_test"


@dataclass(frozen=True)
class Benchmark:
    """``counts`` are the published numbers of images by domain; ``<domain>_test`` names images that are held
    apart for scores."""

    name: str
    title: str
    domains: tuple[str, ...]
    counts: Mapping[str, int]
    classes: int
    class_names: tuple[str, ...] = ()
    """In label order (alphabetical); empty: as the class folders say."""
    metric: str = "top1"
    """top1, or class_mean (mean of the classes' accuracies)."""
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that a domain's folder or list may have, the official one first; default: the domain's name."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    only: tuple[tuple[str, str], ...] = ()
    """The transfers that are reported, where they are not all pairs."""
    note: str = ""
    """What a table of this benchmark has to say about its protocol."""

    def pairs(self) -> list[tuple[str, str]]:
        """(source, target) of every transfer that results are published on."""
        return list(self.only or itertools.permutations(self.domains, 2))

    def describe(self, domain: str) -> str:
        """What the images of a domain show, for prompts."""
        return self.descriptions.get(domain, "photos")

    def test_split(self, domain: str) -> str:
        """The domain's images that scores count and training never sees, as a name for :func:`open_domain`;
        '' where the benchmark scores the images that it adapts to."""
        return domain + TEST if domain + TEST in self.counts else ""

    def folders(self, domain: str) -> tuple[str, ...]:
        """Names that the folder or list of ``domain`` (without _test) may have."""
        return self.spellings.get(domain, (domain,))


_OFFICE31 = tuple(
    (
        "back_pack bike bike_helmet bookcase bottle calculator desk_chair desk_lamp desktop_computer "
        "file_cabinet headphones keyboard laptop_computer letter_tray mobile_phone monitor mouse mug "
        "paper_notebook pen phone printer projector punchers ring_binder ruler scissors speaker stapler "
        "tape_dispenser trash_can"
    ).split()
)
_OFFICE_HOME = tuple(
    (
        "Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards "
        "Computer Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder "
        "Fork Glasses Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug "
        "Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler "
        "Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys "
        "Trash_Can Webcam"
    ).split()
)
_IMAGECLEF = tuple("aeroplane bike bird boat bottle bus car dog horse monitor motorbike people".split())
_VISDA = tuple("aeroplane bicycle bus car horse knife motorcycle person plant skateboard train truck".split())
_DOMAINNET = {
    "clipart": (33_525, 14_604), "infograph": (36_023, 15_582), "painting": (50_416, 21_850),
    "quickdraw": (120_750, 51_750), "real": (120_906, 52_041), "sketch": (48_212, 20_916),
}  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(
            "office31",
            "Office-31",
            ("amazon", "dslr", "webcam"),
            {"amazon": 2817, "dslr": 498, "webcam": 795},
            31,
            _OFFICE31,
            descriptions={
                "amazon": "product photos of office objects on a white background",
                "dslr": "sharp photos of objects on an office desk, taken with a reflex camera",
                "webcam": "low-resolution webcam photos of objects on an office desk",
            },
        ),
        Benchmark(
            "officehome",
            "Office-Home",
            ("art", "clipart", "product", "real_world"),
            {"art": 2427, "clipart": 4365, "product": 4439, "real_world": 4357},
            65,
            _OFFICE_HOME,
            spellings={
                "art": ("Art", "art"),
                "clipart": ("Clipart", "clipart"),
                "product": ("Product", "product"),
                "real_world": ("Real World", "Real_World", "RealWorld", "real_world", "Real"),
            },
            descriptions={
                "art": "sketches, paintings and artistic depictions of everyday objects",
                "clipart": "clip art of everyday objects",
                "product": "product photos of everyday objects without background",
                "real_world": "photos of everyday objects",
            },
        ),
        Benchmark(
            "imageclef",
            "ImageCLEF-DA",
            ("c", "i", "p"),
            {"c": 600, "i": 600, "p": 600},
            12,
            _IMAGECLEF,
            spellings={"c": ("c", "C", "caltech"), "i": ("i", "I", "imagenet"), "p": ("p", "P", "pascal")},
            descriptions={
                "c": "photos of objects",
                "i": "photos of objects from the web",
                "p": "photos of scenes with objects",
            },
        ),
        Benchmark(
            "visda2017",
            "VisDA-2017",
            ("train", "validation"),
            {"train": 152_397, "validation": 55_388},
            12,
            _VISDA,
            metric="class_mean",
            only=(("train", "validation"),),
            descriptions={
                "train": "rendered 3D models",
                "validation": "photos of vehicles, animals, people and things, cut out of larger scenes",
            },
            note="Results are on the validation images, as published ones are; the score is the mean of the"
            " classes' accuracies.",
        ),
        Benchmark(
            "domainnet",
            "DomainNet",
            tuple(_DOMAINNET),
            {
                name + suffix: counts[i]
                for name, counts in _DOMAINNET.items()
                for i, suffix in enumerate(("", TEST))
            },
            345,
            descriptions={
                "clipart": "clip art",
                "infograph": "infographics",
                "painting": "paintings",
                "quickdraw": "quick line drawings",
                "real": "photos",
                "sketch": "pencil sketches",
            },
            note="Trained on the official training split of both domains, scored on the target's test split.",
        ),
        Benchmark(
            "digits",
            "MNIST and USPS",
            ("mnist", "usps"),
            {"mnist": 60_000, "mnist_test": 10_000, "usps": 7291, "usps_test": 2007},
            10,
            tuple("0123456789"),
            descriptions={
                "mnist": "handwritten digits, white on black",
                "usps": "scanned handwritten digits from envelopes, white on black",
            },
            note="Trained on the whole training split of both domains, scored on the target's test split (not the"
            " protocol of 2000 and 1800 images).",
        ),
    )
}
"""Name -> benchmark."""


def benchmark(name: str) -> Benchmark:
    """Raises RecipeError for an unknown name."""
    if name not in BENCHMARKS:
        raise RecipeError(
            f"There is no benchmark {name!r}.{suggest(name, BENCHMARKS)} Known are: {', '.join(BENCHMARKS)}."
        )
    return BENCHMARKS[name]


def published_count(name: str, domain: str) -> int:
    """Images of a domain (or of its ``_test`` part) as published."""
    return benchmark(name).counts[domain]
