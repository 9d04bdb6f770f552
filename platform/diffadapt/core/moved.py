"""Old names of modules that recipes, spaces, methods and stages of one's own may import.

Such files are not ours to change, so that they go on working where a module has moved: an old name gives a
module with the public names of the new ones, and a DeprecationWarning says where they are now.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "diffadapt."
MOVED = {
    "align.config": "diffusion.aligners.config",
    "data.folder": "data.source data.readers",
    "data.scenes.class_file": "data.scenes.classes",
    "data.scenes.counts": "data.scenes.layout",
    "evaluate.classification": "metrics.classification",
    "evaluate.detection": "metrics.detection",
    "evaluate.ensemble": "metrics.ensemble",
    "evaluate.preprocess": "models.preprocess",
    "evaluate.segmentation": "metrics.segmentation",
    "evaluate.validators": "metrics.validators",
    "methods.segmentation": "tasks.segmentation.losses",
    "synth.config": "diffusion.generators.config prompts.config",
    "systems.adaptation": "systems.adapt_anything.graph",
    "systems.benchmark": "systems.adapt_anything.benchmark",
    "systems.recipes": "core.recipes",
    "systems.scenes": "systems.zodi.graph",
    "systems.sda_paper": "systems.sda.paper",
    "systems.spaces": "sweeps.spaces",
    "systems.zodi_detection": "systems.zodi.detection",
    "train.detection_config": "tasks.detection.config",
    "train.distributed": "compute.distributed",
    "train.layout_config": "worlds.streets.config",
    "train.precision": "compute.precision",
    "train.progress": "compute.progress",
    "train.segmentation_config": "tasks.segmentation.config",
    "train.text_to_image_config": "worlds.config",
    "transfer.config": "diffusion.translation.config",
    **{
        f"stages.{name}": f"tasks.classification.{name}"
        for name in (
            "adapt_online features fit_classifier fit_ssl fit_uda merge_head predict predict_head split "
            "validate zero_shot"
        ).split()
    },
    "stages.fit_detector": "tasks.detection.fit",
    "stages.fit_layout": "worlds.streets.fit",
    "stages.fit_segmenter": "tasks.segmentation.fit",
    "stages.fit_text_to_image": "worlds.glyphs.fit",
    "stages.predict_boxes": "tasks.detection.predict",
    "stages.predict_segments": "tasks.segmentation.predict",
    "stages.transfer": "stages.translate",
}
"""Old module -> the new one, or several (all without ``diffadapt.``)."""


class _OldNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(PACKAGE)
        if name == fullname:
            return None
        folder = any(old.startswith(f"{name}.") for old in MOVED)
        return ModuleSpec(fullname, self, is_package=folder) if folder or name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(PACKAGE)
        if name not in MOVED:
            return
        now = [PACKAGE + new for new in MOVED[name].split()]
        warnings.warn(f"{module.__name__} is now {' and '.join(now)}.", DeprecationWarning, stacklevel=2)
        for new in now:
            vars(module).update(
                {k: v for k, v in vars(importlib.import_module(new)).items() if not k.startswith("__")}
            )


def install() -> None:
    """Let Python find the old names, after all that is really there."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
