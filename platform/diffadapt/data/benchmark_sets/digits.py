"""MNIST and USPS."""

from diffadapt.data.benchmark import Benchmark

BENCHMARK = Benchmark(
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
    idx=("mnist",),
)
