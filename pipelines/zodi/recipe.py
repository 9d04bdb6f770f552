"""ZoDi on your own scenes: a folder of images and label PNGs, and the target domain in words."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.systems.zodi.recipe import Zodi


def recipe() -> Zodi:
    """ZoDi on your own labelled scenes: --source FOLDER (images/, labels/) --source.classes classes.csv
    --domain fog [--target FOLDER]."""
    return Zodi(source_test=SceneConfig(split="test"), target=SceneConfig(split="test"))
