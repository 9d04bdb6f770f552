"""Cityscapes to the game scenes of GTA5 (ZoDi, section 4)."""

from __future__ import annotations

from diffadapt.data.scenes.config import SceneConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.systems.zodi.recipe import Zodi


def recipe() -> Zodi:
    """Cityscapes -> GTA5, DeepLabv3+ R50: --data cityscapes/ --target gta5/."""
    return Zodi(
        source=SceneConfig(layout="cityscapes", split="train"),
        source_test=SceneConfig(layout="cityscapes", split="val"),
        target=SceneConfig(layout="gta5", split="val"),
        transfer=TransferConfig(domain="game"),
    )
