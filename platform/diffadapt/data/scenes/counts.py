"""Published counts of the official layouts."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig

_ACDC = {"train": dict.fromkeys(("fog", "night", "rain", "snow"), 400), "val": {"fog": 100, "night": 106, "rain": 100, "snow": 100}}
_ACDC["test"] = dict.fromkeys(_ACDC["train"], 500)
GTA5 = 24_966
_SPLITS: dict[str, dict[str, int]] = {
    "cityscapes": {"train": 2975, "val": 500, "test": 1525},
    "gta5": {"train": 12_403, "val": 6_382, "test": 6_181, "all": GTA5},
    "bdd100k": {"train": 7000, "val": 1000, "test": 2000},
    "camvid": {"train": 367, "val": 101, "test": 233, "all": 701},
}
_CAMVID_SEQUENCES: dict[str, dict[str, int]] = {"all": {"0001TP": 124, "0006R0": 101, "0016E5": 305, "Seq05VD": 171}}
_DARK_ZURICH = {"train": {"day": 3041, "twilight": 2920, "night": 2416}, "val": {"night": 50}, "test": {"night": 151}}


def published(config: SceneConfig) -> int | None:
    """How many scenes the official layout of ``config`` has in its split (and condition, and sequences); None: not known."""
    if config.layout in ("acdc", "dark_zurich"):
        conditions = (_ACDC if config.layout == "acdc" else _DARK_ZURICH).get(config.split, {})
        return conditions.get(config.condition) if config.condition else sum(conditions.values()) or None
    if config.layout == "camvid" and config.sequences:
        known = _CAMVID_SEQUENCES.get(config.split, {})
        return sum(known[s] for s in config.sequences) if all(s in known for s in config.sequences) else None
    return _SPLITS.get(config.layout, {}).get(config.split)
