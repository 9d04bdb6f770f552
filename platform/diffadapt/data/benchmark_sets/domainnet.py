"""DomainNet (Peng et al. 2019)."""

from diffadapt.data.benchmark import TEST, Benchmark

COUNTS = {
    "clipart": (33_525, 14_604), "infograph": (36_023, 15_582), "painting": (50_416, 21_850),
    "quickdraw": (120_750, 51_750), "real": (120_906, 52_041), "sketch": (48_212, 20_916),
}  # fmt: skip
"""Training and test images by domain."""
BENCHMARK = Benchmark(
    "domainnet",
    "DomainNet",
    tuple(COUNTS),
    {name + suffix: counts[i] for name, counts in COUNTS.items() for i, suffix in enumerate(("", TEST))},
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
    listed=True,
)
