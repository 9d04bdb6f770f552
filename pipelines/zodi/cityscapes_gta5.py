"""Cityscapes to the game scenes of GTA5 (ZoDi, section 4)."""

from __future__ import annotations

from diffadapt.core.config import strict_precision
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.systems.zodi.recipe import Zodi


def recipe() -> Zodi:
    """Cityscapes -> GTA5, DeepLabv3+ R50: --data cityscapes/ --target gta5/ (the authors' gtav_split_val.txt
    in it)."""
    return strict_precision(
        Zodi(
            source=SceneConfig(layout="cityscapes", split="train"),
            source_test=SceneConfig(layout="cityscapes", split="val"),
            target=SceneConfig(layout="gta5", split="val", split_file="gtav_split_val.txt"),
            transfer=TransferConfig(domain="game"),
        )
    )
