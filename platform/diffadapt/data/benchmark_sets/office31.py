"""Office-31 (Saenko et al. 2010)."""

from diffadapt.data.benchmark import Benchmark

CLASSES = tuple(
    (
        "back_pack bike bike_helmet bookcase bottle calculator desk_chair desk_lamp desktop_computer "
        "file_cabinet headphones keyboard laptop_computer letter_tray mobile_phone monitor mouse mug "
        "paper_notebook pen phone printer projector punchers ring_binder ruler scissors speaker stapler "
        "tape_dispenser trash_can"
    ).split()
)
BENCHMARK = Benchmark(
    "office31",
    "Office-31",
    ("amazon", "dslr", "webcam"),
    {"amazon": 2817, "dslr": 498, "webcam": 795},
    31,
    CLASSES,
    descriptions={
        "amazon": "product photos of office objects on a white background",
        "dslr": "sharp photos of objects on an office desk, taken with a reflex camera",
        "webcam": "low-resolution webcam photos of objects on an office desk",
    },
)
