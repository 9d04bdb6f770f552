"""Published counts of the official layouts."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig

ACDC_CONDITIONS = ("fog", "night", "rain", "snow")
_CONDITIONS: dict[str, dict[str, dict[str, int]]] = {
    "acdc": {
        "train": dict.fromkeys(ACDC_CONDITIONS, 400),
        "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100},
        "test": dict.fromkeys(ACDC_CONDITIONS, 500),
    },
    "dark_zurich": {
        "train": {"day": 3041, "twilight": 2920, "night": 2416},
        "val": {"night": 50},
        "test": {"night": 151},
    },
}
_SPLITS: dict[str, dict[str, int]] = {
    "cityscapes": {"train": 2975, "val": 500, "test": 1525},
    "gta5": {"train": 12_403, "val": 6_382, "test": 6_181, "all": 24_966},
    "bdd100k": {"train": 7000, "val": 1000, "test": 2000},
    "camvid": {"train": 367, "val": 101, "test": 233, "all": 701},
}
_CAMVID_SEQUENCES = {"0001TP": 124, "0006R0": 101, "0016E5": 305, "Seq05VD": 171}
"""Of all 701 frames."""


def published(config: SceneConfig, *, filtered: bool = True) -> int | None:
    """How many scenes the official layout of ``config`` has in its split and condition; ``filtered``: of
    ``config.sequences`` only.
    None: not known."""
    if config.layout in _CONDITIONS:
        known = _CONDITIONS[config.layout].get(config.split, {})
        condition = config.condition or ("night" if config.layout == "dark_zurich" else "")
        return known.get(condition) if condition else sum(known.values()) or None
    if filtered and config.layout == "camvid" and config.sequences:
        whole = config.split == "all" and all(s in _CAMVID_SEQUENCES for s in config.sequences)
        return sum(_CAMVID_SEQUENCES[s] for s in config.sequences) if whole else None
    return _SPLITS.get(config.layout, {}).get(config.split)
